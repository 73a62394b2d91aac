"""Writing: whole or not at all, to what the name stands for, and nothing is called written that is not."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write
from write_faults import NEW, OLD, WAYS, Faulty, fault_of, inject, linked, regular, twice_named

from gradlint.system import writing

__all__ = ["folder", "run"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")


# What a name stands for


def dangling(where: Path) -> Path:
    (where / "link").symlink_to("made")
    return where / "link"


def with_mode(where: Path) -> Path:
    write(where / "file", OLD).chmod(0o4751)
    return where / "file"


def with_attribute(where: Path) -> Path:
    path = write(where / "file", OLD)
    with contextlib.suppress(OSError, AttributeError):
        os.setxattr(path, "user.note", b"kept")
    return path


def long_name(where: Path) -> Path:
    return write(where / ("n" * 255), OLD)


def kept(path: Path) -> dict[str, Any]:
    """Return what writing may not change, of a path and what it leads to."""
    status, own = path.stat(), path.lstat()
    attributes = os.listxattr(path) if hasattr(os, "listxattr") else []
    return {
        "mode": status.st_mode,
        "owner": (status.st_uid, status.st_gid),
        "names": status.st_nlink,
        "attributes": {name: os.getxattr(path, name) for name in attributes},
        "link": stat.S_ISLNK(own.st_mode) and os.readlink(path),
    }


@pytest.mark.parametrize("place", [regular, linked, twice_named, with_mode, with_attribute, long_name])
def test_a_file_stays_what_it_is(tmp_path: Path, place: Callable[[Path], Path]) -> None:
    path = place(tmp_path)
    before = kept(path)
    names = set(tmp_path.rglob("*"))
    writing.write(path, NEW)
    assert (path.read_bytes(), kept(path), set(tmp_path.rglob("*"))) == (NEW, before, names)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give files away")
def test_the_owner_stays(tmp_path: Path) -> None:
    path = regular(tmp_path)
    os.chown(path, 1234, 4321)
    writing.write(path, NEW)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 4321)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_new_file_obeys_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        writing.write(tmp_path / "file", NEW)
        writing.create(tmp_path / "other", NEW)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "other")] == [0o666 & ~mask] * 2


def test_a_link_to_nothing_is_followed(tmp_path: Path) -> None:
    writing.write(dangling(tmp_path), NEW)
    assert ((tmp_path / "link").is_symlink(), (tmp_path / "made").read_bytes()) == (True, NEW)


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    writing.write(tmp_path / "pipe", NEW * 5000)  # more than a pipe holds
    reader.join()
    assert (seen, (tmp_path / "pipe").is_fifo()) == ([NEW * 5000], True)


def test_a_pipe_that_nobody_reads_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PIPE_TIMEOUT", 0.05)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody reads"):
        writing.write(tmp_path / "pipe", NEW)
    assert (tmp_path / "pipe").is_fifo()


def test_a_device_stays_one() -> None:
    writing.write("/dev/null", NEW)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_an_open_file_goes_on_where_it_is(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb", buffering=0) as file:
        file.write(b"begun ")
        os.set_inheritable(file.fileno(), True)
        writing.write(f"/dev/fd/{file.fileno()}", b"ended")
    assert (tmp_path / "file").read_bytes() == b"begun ended"


@each(
    ("name", "error"),
    [
        ("folder", IsADirectoryError),
        ("folder/", IsADirectoryError),
        ("new/", FileNotFoundError),
        ("gone/file", FileNotFoundError),
        ("file/below", NotADirectoryError),
        ("loop", OSError),
        ("socket", OSError),
        ("/dev/fd/999", OSError),
        ("/dev/fd/99999999999999999999", OSError),
        ("/dev/full", OSError),
    ],
)
def test_what_cannot_be_written_is_an_error(tmp_path: Path, name: str, error: type[OSError]) -> None:
    (tmp_path / "folder").mkdir(exist_ok=True)
    regular(tmp_path)
    with contextlib.suppress(FileExistsError):
        (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as listening:
        with contextlib.suppress(OSError):
            listening.bind(str(tmp_path / "socket"))
        names = set(tmp_path.iterdir())
        with pytest.raises(error):
            writing.write(os.path.join(tmp_path, name), NEW)
        assert (set(tmp_path.iterdir()), (tmp_path / "file").read_bytes()) == (names, OLD)


def test_a_changed_file_is_left_alone(tmp_path: Path) -> None:
    for path in (regular(tmp_path), twice_named(tmp_path)):
        with pytest.raises(writing.FileChanged):
            writing.write(path, NEW, expected=b"what was read")
        assert path.read_bytes() == OLD
    with pytest.raises(writing.FileChanged):
        writing.write(tmp_path / "gone", NEW, expected=OLD)
    assert not (tmp_path / "gone").exists()


def test_a_file_that_is_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        writing.create(regular(tmp_path), NEW)
    assert (tmp_path / "file").read_bytes() == OLD


# Faults


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_fault_leaves_half_a_file(tmp_path: Path, way: str, few: bool) -> None:
    injected, wrong = inject(way, tmp_path, few)
    assert injected.total() and wrong == []


def test_an_interrupt_at_any_line_leaves_half_a_file_nowhere(tmp_path: Path) -> None:
    for way, (place, act) in WAYS.items():
        for line in range(1, 400):
            where = tmp_path / f"{way}{line}"
            where.mkdir()
            path = place(where)
            before = path.read_bytes() if path.exists() else None
            names = set(where.rglob("*"))
            try:
                with interrupted(line) as lines:
                    act(path)
            except KeyboardInterrupt:
                pass
            after = path.read_bytes() if path.exists() else None
            assert after in (before, NEW), (way, line)
            assert set(where.rglob("*")) - {path} == names - {path}, (way, line)
            if lines[0] < line:
                break


@contextlib.contextmanager
def interrupted(at: int) -> Iterator[list[int]]:
    """Raise KeyboardInterrupt at one line that the writer runs; yield the number of lines it has run."""
    seen = [0]

    def trace(frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != writing.__file__:
            return None
        if event == "line":
            seen[0] += 1
            if seen[0] == at:
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield seen
    finally:
        sys.settrace(before)


def test_what_a_killed_process_left_beside_a_file_is_swept(tmp_path: Path) -> None:
    path = regular(tmp_path)
    for name, age in (
        (".gradlint-0123456789abcdef.tmp", 7200),
        (".gradlint-0123456789abcde1.tmp", 0),
        (".x.tmp", 7200),
    ):
        os.utime(write(tmp_path / name, "x"), (time.time() - age,) * 2)
    writing.write(path, NEW)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".gradlint-0123456789abcde1.tmp", ".x.tmp", "file"]


# What is told of it


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


# The cache


def test_a_folder_of_somebodys_holds_no_cache(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    write(folder / "mine/thesis.txt", "years of work")
    result = run("check", "m.py", "--cache-dir", "mine")
    assert (result.code, "nothing is cached: mine holds other files" in result.out) == (1, True)
    assert run("clean", "--cache-dir", "mine").code == 2
    assert [path.name for path in (folder / "mine").iterdir()] == ["thesis.txt"]


@each(("made", "is_left"), [(False, ["mine"]), (True, [])])
def test_clean_deletes_what_gradlint_made(run: Run, folder: Path, made: bool, is_left: list[str]) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    cache = folder / f"cache{made}"
    if not made:
        cache.mkdir()
    run("check", "m.py", "--cache-dir", cache.name)
    write(cache / ".gradlint-0123456789abcdef.tmp", "left by a killed one")
    if not made:
        write(cache / "mine", "x")
        (cache / f"{'0' * 32}.json").symlink_to("mine")
    assert run("clean", "--cache-dir", cache.name).code == 0
    assert cache.exists() is not made
    assert made or sorted(path.name for path in cache.iterdir()) == [f"{'0' * 32}.json", "mine"]


def test_a_tag_of_somebody_else_is_no_cache(run: Run, folder: Path) -> None:
    for text in ("Signature: 8a477f597d28d172789f06886806bc55\n", "# gradlint\n", ""):
        write(folder / "mine/CACHEDIR.TAG", text)
        write(folder / f"mine/{'0' * 32}.json", "{}")
        assert run("clean", "--cache-dir", "mine").code == 2
        assert len(list((folder / "mine").iterdir())) == 2


@each("name", ["../mine", "inner/../../mine", "link", "link/below", "~/mine", "{folder}/../mine", "a\\u0000b"])
def test_a_found_configuration_keeps_its_cache_at_home(run: Run, folder: Path, name: str) -> None:
    write(folder.parent / "mine/thesis.txt", "x")
    write(folder / "m.py", FROZEN_WRONG)
    with contextlib.suppress(FileExistsError):
        (folder / "link").symlink_to("../mine")
    write(folder / "gradlint.toml", f'cache-dir = "{name.format(folder=folder)}"\n')
    for arguments in (["check", "m.py"], ["clean"]):
        result = run(*arguments)
        assert (result.code, "cache-dir" in result.err) == (2, True)
    assert run("check", "m.py", "--no-cache").code == 1 or "u0000" in name
    assert [path.name for path in (folder.parent / "mine").iterdir()] == ["thesis.txt"]


def test_a_named_configuration_puts_the_cache_anywhere(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    write(folder / "gradlint.toml", "cache-dir = '../far'\n")
    assert (run("check", "m.py", "--config", "gradlint.toml").code, (folder.parent / "far").is_dir()) == (1, True)
    assert (run("clean", "--config", "gradlint.toml").code, (folder.parent / "far").exists()) == (0, False)


def test_a_link_in_the_cache_is_not_followed(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--cache-dir", "cache")
    [file] = (folder / "cache").glob("*.json")
    file.unlink()
    file.symlink_to(write(folder / "precious", "x"))
    assert (run("check", "m.py", "--cache-dir", "cache").code, (folder / "precious").read_text()) == (1, "x")


def test_stale_files_are_swept_and_no_others(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--cache-dir", "cache")
    cache = folder / "cache"
    for name in (".gradlint-0123456789abcdef.tmp", f"{'0' * 32}.json", "tmpabc.tmp", "notes.json"):
        os.utime(write(cache / name, "{}"), (1e9, 1e9))
    for name in (".gradlint-fedcba9876543210.tmp", f"{'1' * 32}.json"):
        write(cache / name, "{}")
    write(folder / "m.py", FROZEN_WRONG + "\n")
    [known] = {path.name for path in cache.glob("*.json")} - {f"{c * 32}.json" for c in "01"} - {"notes.json"}
    run("check", "m.py", "--cache-dir", "cache")
    left = ["CACHEDIR.TAG", "tmpabc.tmp", "notes.json", ".gradlint-fedcba9876543210.tmp", f"{'1' * 32}.json", known]
    assert sorted(path.name for path in cache.iterdir()) == sorted(left)


def test_many_writers_of_one_file_leave_one_of_their_contents(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from gradlint.engine.source_cache import Cache

    path = regular(tmp_path)
    contents = [bytes([65 + number]) * 20_000 for number in range(8)]

    def work(number: int) -> bool:
        whole = True
        for round_ in range(10):
            writing.write(path, contents[number])
            whole &= path.read_bytes() in contents
            cache = Cache(tmp_path / "cache", ["same"])
            cache.put(f"{number}-{round_}", [])
            cache.save()
            [file] = (tmp_path / "cache").glob("*.json")
            whole &= isinstance(json.loads(file.read_bytes()), dict)
        return whole

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    names = {entry.name for entry in tmp_path.iterdir()} | {entry.name for entry in (tmp_path / "cache").iterdir()}
    assert not {name for name in names if writing.TEMPORARY.fullmatch(name)}


# stdout


def started(*arguments: str, cwd: Path, shell: str = "", stdout: int = subprocess.DEVNULL) -> Any:
    command = [sys.executable, "-m", "gradlint", *arguments]
    environment = {**os.environ, "GRADLINT_NO_CACHE": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, cwd=cwd, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "arguments",
    [["--version"], ["check", "--help"], ["rules"], ["check", "m.py"], ["check", "m.py", "--output-format", "json"]],
    ids=" ".join,
)
@pytest.mark.parametrize(
    ("shell", "said"),
    [
        (">/dev/full", ["error: stdout cannot be written: No space left on device"]),
        (">&-", ["error: stdout cannot be written: it is closed"]),
        ("", []),
    ],
    ids=["full", "closed", "no reader"],
)
def test_a_stdout_that_takes_nothing_is_said(tmp_path: Path, arguments: list[str], shell: str, said: list[str]) -> None:
    write(tmp_path / "m.py", FROZEN_WRONG)
    reading, written = os.pipe()
    os.close(reading)
    done = started(*arguments, cwd=tmp_path, shell=shell, stdout=written)
    os.close(written)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("note")]
    assert (done.returncode, lines) == (2, said)


@pytest.mark.parametrize("shell", ["2>&-", "2>/dev/full"])
def test_a_stderr_that_takes_nothing_changes_nothing(tmp_path: Path, shell: str) -> None:
    write(tmp_path / "m.py", FROZEN_WRONG)
    assert started("check", "m.py", "--output-format", "concise", cwd=tmp_path, shell=shell).returncode == 1


def test_a_report_in_a_file_needs_no_stdout(tmp_path: Path) -> None:
    write(tmp_path / "m.py", FROZEN_WRONG)
    done = started("check", "m.py", "--output-file", "out", cwd=tmp_path, shell=">&-")
    assert (done.returncode, "GL102" in (tmp_path / "out").read_text()) == (1, True)


def test_a_pipe_that_does_not_wait_gets_everything(tmp_path: Path) -> None:
    reading, written = os.pipe()
    os.set_blocking(written, False)
    seen: list[bytes] = []

    def read_late() -> None:
        time.sleep(0.3)
        with open(reading, "rb") as file:
            seen.append(file.read())

    reader = threading.Thread(target=read_late)
    reader.start()
    for number in range(40):
        write(tmp_path / f"m{number}.py", FROZEN_WRONG)
    done = started("check", ".", "--output-format", "sarif", cwd=tmp_path, stdout=written)
    os.close(written)
    reader.join()
    assert (done.returncode, len(json.loads(seen[0])["runs"][0]["results"])) == (1, 40)


def test_a_working_directory_that_is_gone_is_said(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gradlint"]
    run = (
        f"import os, sys; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd()); "
        f"os.execv(sys.executable, {command!r} + sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(writing.__file__).parents[1])}
    for arguments, code in ((["check", "m.py"], 2), (["--version"], 0)):
        (tmp_path / "gone").mkdir()
        done = subprocess.run([sys.executable, "-c", run, *arguments], capture_output=True, text=True, env=environment)
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
