"""Writing: whole or not at all, to what the name stands for, and nothing is called written that is not."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import FROZEN_WRONG, folder, run, write
from write_faults import NEW, OLD, WAYS, inject, linked, regular, twice_named

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
