"""What commands say of files that they write, and of those that they could not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write
from write_faults import Faulty, fault_of

from gradlint.system import writing

__all__ = ["folder", "run"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")


COMMANDS = {
    "fix": ["check", "m.py", "n.py", "--fix", "--output-format", "json", "--no-cache"],
    "ignores": ["check", "m.py", "--add-ignores", "--no-cache"],
    "baseline": ["check", "m.py", "--write-baseline", "known.json", "--no-cache"],
    "report": ["check", "m.py", "--output-file", "report.txt", "--no-cache"],
    "init": ["init", "m.py", "-o", "new.py"],
    "cache": ["check", "m.py", "--cache-dir", "cache"],
}
SAID = {
    "fix": '"fixed": 2',
    "ignores": "comments for 1 finding",
    "baseline": "listed 1 finding",
    "init": "wrote new.py",
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_no_fault_of_a_command_is_lost(run: Run, folder: Path, command: str) -> None:
    arguments = COMMANDS[command]

    def prepared() -> None:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        write(folder / "m.py", FROZEN_WRONG)
        write(folder / "n.py", FROZEN_WRONG)

    def contents() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    prepared()
    before = contents()
    watched = Faulty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "os", watched)
        code = run(*arguments).code
    after = contents()
    injected = 0
    for name in dict.fromkeys(watched.calls):
        for number in range(1, watched.calls.count(name) + 1):
            for fault in ("ENOSPC", "EACCES", "EIO", "KeyboardInterrupt"):
                for how in ("once", "on", "half") if name == "write" else ("once",):
                    prepared()
                    with pytest.MonkeyPatch.context() as patch:
                        faulty = Faulty(name, number, fault_of(fault), how)
                        patch.setattr(writing, "os", faulty)
                        result = run(*arguments)
                    injected += faulty.raised
                    said = f"{name}() number {number}: {fault}, {how}: {result}"
                    for file, content in contents().items():
                        assert content in (before.get(file), after.get(file)), f"{said}: half of {file}"
                    assert contents().keys() <= after.keys(), f"{said}: something is left"
                    assert not list((folder / "cache").glob(".*")), f"{said}: something is left"
                    is_whole = contents() == after
                    codes = {130} if fault == "KeyboardInterrupt" and faulty.raised else {code, 2} if is_whole else {2}
                    assert result.code in ({code} if command == "cache" and 130 not in codes else codes), said
                    assert is_whole or SAID.get(command, "!") not in result.out + result.err, said
    print(f"{command}: {injected} faults")


def full_disk(patch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    patch.setattr(writing, "os", Faulty("write", 1, OSError(number, os.strerror(number)), "on"))


def test_a_fix_that_was_not_written_is_not_made(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    full_disk(monkeypatch)
    result = run("check", "m.py", "--fix", "--output-format", "json")
    report = json.loads(result.out)
    assert (result.code, report["fixed"], [f["code"] for f in report["findings"]]) == (2, 0, ["GL102"])
    assert report["errors"][0]["message"] == "cannot be changed: No space left on device"
    assert (folder / "m.py").read_text() == FROZEN_WRONG


def test_the_other_files_are_fixed(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.py", "b.py", "c.py"):
        write(folder / name, FROZEN_WRONG)
    real = writing.write

    def refusing(path: str | Path, data: bytes, **named: Any) -> None:
        if Path(path).name == "b.py":
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, data, **named)

    monkeypatch.setattr(writing, "write", refusing)
    result = run("check", ".", "--fix", "--output-format", "json")
    report = json.loads(result.out)
    assert [(folder / name).read_text() == FIXED for name in ("a.py", "b.py", "c.py")] == [True, False, True]
    assert (result.code, report["fixed"], [f["target"] for f in report["findings"]]) == (2, 2, ["b.py"])


@each(
    ("arguments", "said"),
    [
        (["check", "m.py", "--fix-only"], "error: m.py: cannot be changed: No space left on device"),
        (["check", "m.py", "--add-ignores"], "added comments for 0 findings in 0 files"),
        (["check", "m.py", "--write-baseline", "b.json"], "b.json: cannot be written: No space left on device"),
        (["check", "m.py", "-q", "--output-file", "out"], "--output-file out: cannot be written: No space left"),
        (["init", "m.py"], "m_build.py: cannot be written: No space left on device"),
        (["init", "m.py", "-o", "new.py"], "new.py: cannot be written: No space left on device"),
    ],
)
def test_nothing_is_called_written_that_is_not(run: Run, folder: Path, arguments: list[str], said: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    with pytest.MonkeyPatch.context() as patch:
        full_disk(patch)
        result = run(*arguments)
    assert (result.code, said in result.err, "Traceback" in result.err) == (2, True, False), result.err
    assert [path.name for path in folder.iterdir()] == ["m.py"]
    assert (folder / "m.py").read_text() == FROZEN_WRONG


def test_a_lock_that_was_not_written_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlint.lock import lockfile

    lockfile.write(tmp_path / "gradlint.lock", [])
    before = (tmp_path / "gradlint.lock").read_bytes()
    full_disk(monkeypatch, errno.EDQUOT)
    monkeypatch.setattr(lockfile, "render", lambda snapshots: "another text\n")
    with pytest.raises(lockfile.LockError, match="cannot be written"):
        lockfile.write(tmp_path / "gradlint.lock", [])
    assert ((tmp_path / "gradlint.lock").read_bytes(), len(list(tmp_path.iterdir()))) == (before, 1)


@pytest.mark.parametrize("way", ["--fix", "--add-ignores"])
def test_a_file_changed_by_somebody_else_keeps_that(
    run: Run, folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gradlint.cli.check import Checker

    path = write(folder / "m.py", FROZEN_WRONG)
    theirs = "# theirs\n" + FROZEN_WRONG
    real = Checker.check_sources

    def then_saved(self: Checker) -> Any:
        result = real(self)
        path.write_text(theirs)
        return result

    monkeypatch.setattr(Checker, "check_sources", then_saved)
    result = run("check", "m.py", way)
    assert (result.code, path.read_text() == theirs) == (2, True)
    assert "cannot be changed: it was changed while gradlint checked it" in " ".join((result.err + result.out).split())


def test_a_recording_of_a_file_that_was_saved_since_fixes_nothing(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = (
        "\n\ndef build():\n    net = Net()\n    return {'model': net, 'inputs': (torch.ones(2, 3),), 'loss': sum_of}\n"
    )
    text = FROZEN_WRONG + "\n\ndef sum_of(out):\n    return out.sum()\n" + build
    path = write(folder / "m.py", text)
    os.utime(path, (1e9, 1e9))
    from gradlint.cli.check import Checker

    real = Checker.check

    def then_saved(self: Checker) -> Any:
        result = real(self)
        path.write_text("# theirs\n" + text)
        return result

    monkeypatch.setattr(Checker, "check", then_saved)
    assert (run("check", "m.py:build", "--fix").code, path.read_text()) == (2, "# theirs\n" + text)


def test_what_is_read_once_is_judged_and_not_written_to(run: Run, folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for arguments, code, fixed in (([], 1, 0), (["--fix"], 2, 0)):
        writer = threading.Thread(target=lambda: (folder / "pipe").write_text(FROZEN_WRONG))
        writer.start()
        result = run("check", "pipe", "--output-format", "json", *arguments)
        writer.join()
        report = json.loads(result.out)
        assert (result.code, report["fixed"], [f["code"] for f in report["findings"]]) == (code, fixed, ["GL102"])


def test_a_device_is_not_read(run: Run, folder: Path) -> None:
    (folder / "m.py").symlink_to("/dev/zero")
    result = run("check", "m.py", "--output-format", "concise")
    assert (result.code, "m.py: this is a device" in result.err, run("check", "/dev/null").code) == (2, True, 0)


def test_one_file_of_two_names_is_fixed_once(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    (folder / "n.py").symlink_to("m.py")
    os.link(folder / "m.py", folder / "o.py")
    assert run("check", "m.py", "n.py", "o.py", "--fix").code == 0
    assert ((folder / "o.py").read_text(), (folder / "n.py").is_symlink()) == (FIXED, True)


@each(
    "arguments",
    [
        ["check", "m.py", "--output-file", "m.py"],
        ["check", "m.py", "--output-file", "other.py"],
        ["check", "m.py", "--write-baseline", "m.py"],
        ["check", "m.py", "--write-baseline", "other.txt"],
        ["lock", "m.py:build", "--lock-file", "other.txt"],
        ["init", "m.py", "-o", "other.py"],
        ["init", "m.py", "-o", "hanging.py"],
    ],
)
def test_what_is_something_else_is_not_replaced(run: Run, folder: Path, arguments: list[str]) -> None:
    for name in ("m.py", "other.py", "other.txt"):
        write(folder / name, FROZEN_WRONG)
    with contextlib.suppress(FileExistsError):
        (folder / "hanging.py").symlink_to("nowhere")
    before = {path.name: path.is_file() and path.read_text() for path in folder.iterdir()}
    assert run(*arguments).code == 2
    assert {path.name: path.is_file() and path.read_text() for path in folder.iterdir()} == before


def test_a_configured_baseline_is_a_regular_file(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    for name in ("/dev/zero", "pipe", "link"):
        with contextlib.suppress(FileExistsError):
            os.mkfifo(folder / "pipe")
            (folder / "link").symlink_to("/dev/zero")
        write(folder / "gradlint.toml", f'baseline = "{name}"\n')
        result = run("check", "m.py")
        assert (result.code, "is no regular file" in result.err) == (2, True)


def test_a_baseline_goes_through_pipes(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    reading, written = os.pipe()
    os.set_inheritable(written, True)
    run("check", "m.py", "--write-baseline", f"/dev/fd/{written}")
    os.close(written)
    with open(reading, "rb") as file:
        text = file.read()
    assert [row["path"] for row in json.loads(text)["findings"]] == ["m.py"]
    os.mkfifo(folder / "known")
    writer = threading.Thread(target=lambda: (folder / "known").write_bytes(text))
    writer.start()
    assert run("check", "m.py", "--baseline", "known").code == 0
    writer.join()


@each("name", ["-", "/dev/stdout", "/dev/fd/1"])
def test_a_report_may_go_to_stdout_by_name(run: Run, folder: Path, name: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py", "-q", "--output-format", "concise", "--output-file", name)
    assert (result.code, result.out.count("GL102"), len(list(folder.iterdir()))) == (1, 1, 1)


@each(("output", "path"), [("-", "m_build.py"), ("/dev/stdout", "m_build.py"), ("sub.py", "sub.py")])
def test_the_advice_of_init_names_the_file(run: Run, folder: Path, output: str, path: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("init", "m.py", "-o", output)
    text = (folder / path).read_text() if output == path else result.out
    assert (result.code, text.splitlines()[0][:40]) == (0, f'"""What `gradlint check {path}:build` build'[:40])
