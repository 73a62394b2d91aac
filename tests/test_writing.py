"""Writing: whole or not at all, to what the name stands for, and nothing is called written that is not."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write  # noqa: F401

from gradlint import writing

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and modes of POSIX")

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")
OLD, NEW = b"old\n" * 3, b"new content\n" * 50


# What a name stands for


def linked(where: Path) -> Path:
    (where / "link").symlink_to(write(where / "there/real", OLD))
    return where / "link"


def dangling(where: Path) -> Path:
    (where / "link").symlink_to("made")
    return where / "link"


def twice_named(where: Path) -> Path:
    os.link(write(where / "file", OLD), where / "other")
    return where / "other"


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


def new(where: Path) -> Path:
    return where / "file"


def regular(where: Path) -> Path:
    return write(where / "file", OLD)


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
    monkeypatch.setattr(writing, "PATIENCE", 0.05)
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
        with pytest.raises(writing.Changed):
            writing.write(path, NEW, instead_of=b"what was read")
        assert path.read_bytes() == OLD
    with pytest.raises(writing.Changed):
        writing.write(tmp_path / "gone", NEW, instead_of=OLD)
    assert not (tmp_path / "gone").exists()


def test_a_file_that_is_there_is_not_created(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        writing.create(regular(tmp_path), NEW)
    assert (tmp_path / "file").read_bytes() == OLD


# Faults


class Faulty:
    """The module `os`, of which one call of one function fails, or all from that one on."""

    COUNTED = (
        "open",
        "write",
        "fsync",
        "replace",
        "link",
        "close",
        "fchmod",
        "fchown",
        "posix_fallocate",
        "ftruncate",
        "stat",
    )

    def __init__(self, name: str = "", number: int = 0, fault: BaseException | None = None, how: str = "once") -> None:
        self.name, self.number, self.fault, self.how = name, number, fault, how
        self.calls: list[str] = []
        self.raised = False

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.COUNTED:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            number = self.calls.count(name)
            if self.fault is None or name != self.name or number < self.number:
                return real(*arguments, **named)
            if number > self.number and self.how != "on":
                return real(*arguments, **named)
            if self.how == "late":
                real(*arguments, **named)
            elif self.how == "half" and name == "write":
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            elif name == "close":
                real(*arguments, **named)  # the number is free, whatever close() says
            self.raised = True
            raise self.fault

        return call


NUMBERS = ("ENOSPC", "EDQUOT", "EACCES", "EROFS", "EINTR", "EIO", "EFBIG", "EBUSY")


def fault_of(name: str) -> BaseException:
    if name == "KeyboardInterrupt":
        return KeyboardInterrupt()
    number = getattr(errno, name)
    return OSError(number, os.strerror(number))


def existing(path: Path) -> None:
    writing.write(path, NEW, instead_of=OLD)


def made(path: Path) -> None:
    writing.write(path, NEW)


def created(path: Path) -> None:
    writing.create(path, NEW)


def put(path: Path) -> None:
    writing.replace(str(path), NEW, durable=False)


WAYS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "existing": (regular, existing),
    "link": (linked, existing),
    "two names": (twice_named, existing),
    "new": (new, made),
    "create": (new, created),
    "cache": (regular, put),
}


def faults(way: str, tmp_path: Path) -> Iterator[tuple[str, int, str, str]]:
    """Yield (function, number of the call, fault, how) for every call that a way of writing makes."""
    place, act = WAYS[way]
    (tmp_path / "counted").mkdir()
    watched = Faulty()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "os", watched)
        act(place(tmp_path / "counted"))
    for name in dict.fromkeys(watched.calls):
        for number in range(1, watched.calls.count(name) + 1):
            for fault in (*NUMBERS, "KeyboardInterrupt"):
                for how in ("once", "on", "half", "late") if name == "write" else ("once", "late"):
                    yield name, number, fault, how


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("few", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_no_fault_leaves_half_a_file(tmp_path: Path, way: str, few: bool) -> None:
    place, act = WAYS[way]
    injected = 0
    for name, number, fault, how in list(faults(way, tmp_path)):
        if few and (fault not in ("ENOSPC", "KeyboardInterrupt") or how == "late"):
            continue
        where = tmp_path / str(injected)
        where.mkdir()
        injected += 1
        path = place(where)
        before = path.read_bytes() if path.exists() else None
        names = set(where.rglob("*"))
        raised: BaseException | None = None
        with pytest.MonkeyPatch.context() as patch:
            faulty = Faulty(name, number, fault_of(fault), how)
            patch.setattr(writing, "os", faulty)
            try:
                act(path)
            except BaseException as error:
                raised = error
        said = f"{way}: {name}() number {number}: {fault}, {how}: {raised!r}"
        after = path.read_bytes() if path.exists() else None
        assert after in (before, NEW), f"{said}: half a file"
        assert set(where.rglob("*")) - {path} == names - {path}, f"{said}: something is left"
        assert raised is not None or after == NEW, f"{said}: nobody is told"
        if fault == "KeyboardInterrupt" and faulty.raised:
            assert isinstance(raised, KeyboardInterrupt), f"{said}: the interrupt is lost"
    print(f"{way}: {injected} faults")


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
