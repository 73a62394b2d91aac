"""Reading: a pipe, a device or an endless file that somebody named neither holds gradlint up nor fills its memory."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from snippets import FROZEN_WRONG, Run, folder, run, write

from gradlint.system import reading

__all__ = ["folder", "run"]
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices of POSIX")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PIPE_TIMEOUT", 0.05)
    monkeypatch.setattr(reading, "MOST", 2**20)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = [pipe, endless]


@pytest.mark.parametrize("content", [b"", b"x = 1\n", b"y" * 300_000])
def test_a_pipe_is_read_to_its_end(tmp_path: Path, content: bytes) -> None:
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(content))
    writer.start()
    assert reading.read(tmp_path / "pipe") == content
    writer.join()


def test_a_writer_may_take_its_time(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    was_silent = threading.Event()

    def late() -> None:
        with open(tmp_path / "pipe", "wb") as file:
            was_silent.wait(4 * reading.PIPE_TIMEOUT)  # nobody sets it
            file.write(b"late")

    writer = threading.Thread(target=late)
    writer.start()
    assert reading.read(tmp_path / "pipe") == b"late"
    writer.join()


def test_a_pipe_that_nobody_writes_to_is_an_error(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="nobody writes"):
        reading.read(tmp_path / "pipe")


def test_a_device_without_end_is_an_error() -> None:
    with pytest.raises(OSError, match="more than 1 MiB"):
        reading.read("/dev/zero")


def test_a_large_file_is_read_whole(tmp_path: Path) -> None:
    path = write(tmp_path / "file", b"x" * (reading.MOST + 1))
    assert len(reading.read(path)) == reading.MOST + 1


@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "p.py"],
        ["check", "p.py:build"],
        ["check", "m.py", "--config", "p.py"],
        ["check", "m.py", "--baseline", "p.py"],
        ["init", "p.py"],
        ["run", "p.py"],
        ["lock", "m.py:build", "--check", "--lock-file", "p.py"],
    ],
    ids=" ".join,
)
def test_what_a_command_names_may_be_anything(
    run: Run, folder: Path, make: Callable[[Path], None], arguments: list[str]
) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    make(folder / "p.py")
    result = run(*arguments, *(["--no-cache"] if arguments[0] == "check" else []))
    assert (result.code, "p.py" in result.out + result.err) == (2, True)
