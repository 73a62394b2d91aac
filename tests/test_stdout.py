"""A stdout or stderr that takes nothing, takes it late, or is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from snippets import FROZEN_WRONG, folder, run, write

from gradlint.cli import streams
from gradlint.system import writing

__all__ = ["folder", "run"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")


def started(*arguments: str, cwd: Path, shell: str = "", stdout: int = subprocess.DEVNULL) -> Any:
    command = [sys.executable, "-m", "gradlint", *arguments]
    environment = {**os.environ, "GRADLINT_NO_CACHE": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    if shell:
        command = ["sh", "-c", f'exec "$@" {shell}', "sh", *command]
    return subprocess.run(command, cwd=cwd, env=environment, stdout=stdout, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["check", "m.py"],
        *(
            pytest.param(arguments, marks=pytest.mark.slow)
            for arguments in (["check", "--help"], ["rules"], ["check", "m.py", "--output-format", "json"])
        ),
    ],
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


# -- how far it is ----------------------------------------------------------------------------------------------------


class Ends(threading.Event):
    """An event that is set at its last wait."""

    def __init__(self, waits: int) -> None:
        super().__init__()
        self.left = waits

    def wait(self, timeout: float | None = None) -> bool:
        self.left -= 1
        return self.left < 0


def test_progress_says_how_long_it_takes(capfd: pytest.CaptureFixture[str]) -> None:
    streams._tell("checking m.py:build (3/12 targets)", 1.0, Ends(4))
    assert capfd.readouterr().err.splitlines() == [
        "checking m.py:build (3/12 targets)",
        *(f"checking m.py:build (3/12 targets): {seconds} s" for seconds in (10, 20, 40)),
    ]


def test_progress_is_told_on_a_terminal_alone(capfd: pytest.CaptureFixture[str]) -> None:
    with streams.progress("checking m.py:build", after=0.0):
        time.sleep(0.1)
    assert capfd.readouterr().err == ""
