"""The one writer of files: a regular file is written whole or not at all, and stays what it was in all other respects.

Links stay links, and mode, owner and extended attributes stay. What is no regular file (a device, a pipe, a file that
is open already, such as ``/dev/stdout``) is written to and not replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

TEMPORARY = re.compile(r"\.gradlint-[0-9a-f]{16}\.tmp")
"""Matches the names of temporary files; no user has such a file."""
STALE_SECONDS = 3600.0
"""Age of a temporary file that no process is writing any more."""
PIPE_TIMEOUT = 10.0
"""Seconds to wait until another process opens a named pipe for reading."""
_NOT_REPLACEABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY, errno.EXDEV)
"""Errors of a folder that takes no new file, or of a file that cannot be replaced, such as a mounted one."""
_NO_TERMINAL = getattr(os, "O_NOCTTY", 0)
_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)

_swept: set[str] = set()
"""Folders without stale temporary files."""
redirected: dict[int, int] = {}
"""Number of an open file → its number now, where gradlint has put another file in its place."""


class FileChanged(OSError):
    """A file no longer holds what it did when it was read."""

    def __init__(self) -> None:
        super().__init__("it was changed while gradlint checked it")


def write(path: str | Path, data: bytes, *, expected: bytes | None = None) -> None:
    """Write a file, whole or not at all where it is a regular one.

    Args:
        path: where; links are followed.
        data: the new content.
        expected: its content until now; None for any content, or no file.

    Raises:
        FileChanged: it holds something else.
        OSError: it cannot be written. A regular file is as it was.
    """
    if expected is not None and is_special(path):
        raise OSError("it is no regular file")
    number = open_file(path)
    if number is not None:
        _write_all(number, data)
        return
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except FileNotFoundError:
        status = None
    if status is None:
        if expected is not None:
            raise FileChanged
        if os.fspath(path).endswith(_separators()):
            raise _error(errno.ENOENT)
        replace(real, data)
    elif not stat.S_ISREG(status.st_mode):
        _write_special(real, status, data)
    else:
        os.close(os.open(real, os.O_WRONLY | _BINARY))  # a folder would let a file be replaced that is read-only
        if status.st_nlink > 1 or not _try_replace(real, status, data, expected):
            _overwrite(real, data, expected)


def create(path: str | Path, data: bytes) -> None:
    """Write a new file, whole or not at all; what is no regular file is written to.

    Raises:
        FileExistsError: there is such a file already.
        OSError: it cannot be written, and does not exist.
    """
    if is_special(path):
        write(path, data)
        return
    temporary = _temporary_beside(os.fspath(path))
    try:
        _write_new(temporary, data, 0o666)
        _publish(temporary, path)
        _remove(temporary)
    finally:
        _remove(temporary)


def _publish(temporary: str, path: str | Path) -> None:
    """Give a file a name that no other has."""
    try:
        os.link(temporary, path)
    except OSError as error:  # some file systems have no second names
        if isinstance(error, FileExistsError) or os.path.lexists(path):
            raise _error(errno.EEXIST) from None
        os.replace(temporary, path)


def replace(path: str, data: bytes, *, durable: bool = True) -> None:
    """Put a new file in the place of a name at once; a link of that name is not followed.

    Args:
        path: the name.
        data: the content.
        durable: whether the content must survive a failure of the machine.

    Raises:
        OSError: it cannot be written; what was there still is.
    """
    temporary = _temporary_beside(path)
    try:
        _write_new(temporary, data, 0o666, durable=durable)
        os.replace(temporary, path)
    finally:
        _remove(temporary)


@contextlib.contextmanager
def scratch(name: str, data: bytes) -> Iterator[Path]:
    """Yield the path of a file with that content, in a folder of its own that is gone at exit.

    Raises:
        OSError: there is no place for it.
    """
    import shutil  # no other file needs them
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="gradlint-"))
    try:
        (folder / name).write_bytes(data)
        yield folder / name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_special(path: str | Path) -> bool:
    """Return True if a path names something to write to that is no regular file and no folder."""
    if open_file(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def open_file(path: str | Path) -> int | None:
    """Return the number of the open file that a path names; None if it names no open file.

    Such paths are ``/dev/stdout`` and ``/dev/fd/63``, and links to them.

    Raises:
        OSError: this process was not given such a file.
    """
    name = os.path.abspath(path)
    own = {"/dev/fd", f"/proc/{os.getpid()}/fd", "/proc/self/fd"}
    for _ in range(40):  # as many links as the system follows
        folder = os.path.realpath(os.path.dirname(name))
        base = os.path.basename(name)
        if folder in own or (folder.startswith(f"/proc/{os.getpid()}/task/") and folder.endswith("/fd")):
            return _inherited_descriptor(base) if base.isdecimal() else None
        if not os.path.islink(name):
            return None
        name = os.path.join(folder, os.readlink(name))
    return None


def sweep(folder: str | Path, *, older_than: float = STALE_SECONDS) -> None:
    """Remove temporary files that an ended process has left in a folder.

    Args:
        folder: the folder.
        older_than: their age in seconds, so that none is in use.
    """
    limit = time.time() - older_than
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                is_own = TEMPORARY.fullmatch(entry.name) and entry.is_file(follow_symlinks=False)
                if is_own and entry.stat(follow_symlinks=False).st_mtime < limit:
                    os.unlink(entry.path)


def _inherited_descriptor(name: str) -> int:
    """Return the present number of an open file that this process was started with."""
    if len(name) > 9:  # no system has so many
        raise _error(errno.EBADF)
    number = int(name)
    os.fstat(number)
    if number > 2 and not os.get_inheritable(number):  # gradlint has opened it itself
        raise _error(errno.EBADF)
    return redirected.get(number, number)


def _write_special(path: str, status: os.stat_result, data: bytes) -> None:
    """Write to a device or a pipe, which stays what it is."""
    if stat.S_ISBLK(status.st_mode):
        raise OSError("it is a disk")
    number = _open_pipe(path) if stat.S_ISFIFO(status.st_mode) else os.open(path, os.O_WRONLY | _NO_TERMINAL | _BINARY)
    try:
        _write_all(number, data)
    finally:
        os.close(number)


def _open_pipe(path: str) -> int:
    """Open a named pipe once another process reads from it."""
    limit = time.monotonic() + PIPE_TIMEOUT
    while True:
        try:
            number = os.open(path, os.O_WRONLY | os.O_NONBLOCK | _BINARY)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > limit:
                raise OSError("nobody reads from this pipe") from error
            time.sleep(0.02)
        else:
            os.set_blocking(number, True)
            return number


def _try_replace(path: str, status: os.stat_result, data: bytes, expected: bytes | None) -> bool:
    """Put a file of the same mode and owner in the place of a regular one.

    Returns:
        False if that is not possible here, and nothing was done.
    """
    temporary = _temporary_beside(path)
    try:
        if not _write_new(temporary, data, 0o600, finish=lambda number: _copy_metadata(number, path, status)):
            return False
        if expected is not None and Path(path).read_bytes() != expected:
            raise FileChanged
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _NOT_REPLACEABLE:
            raise
        return False
    finally:
        _remove(temporary)
    return True


def _write_new(
    path: str, data: bytes, mode: int, *, durable: bool = True, finish: Callable[[int], bool] = lambda _: True
) -> bool:
    """Write a file that is not there yet, and return what `finish` returns."""
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, mode)
    try:
        _write_all(number, data)
        is_finished = finish(number)
        if durable:
            os.fsync(number)
        return is_finished
    finally:
        os.close(number)


def _copy_metadata(number: int, path: str, status: os.stat_result) -> bool:
    """Give an open file the owner, the attributes and the mode of another.

    Returns:
        False if that is not allowed.
    """
    if sys.platform == "win32":
        return True
    try:
        made = os.fstat(number)
        if (made.st_uid, made.st_gid) != (status.st_uid, status.st_gid):
            os.fchown(number, status.st_uid, status.st_gid)
        if sys.platform == "linux":
            for name in _attributes(path):
                if os.getxattr(path, name) != _attribute(number, name):
                    os.setxattr(number, name, os.getxattr(path, name))
        os.fchmod(number, stat.S_IMODE(status.st_mode))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        return False
    return True


def _attributes(path: str) -> list[str]:
    try:
        return os.listxattr(path) if sys.platform == "linux" else []
    except OSError:  # the file system has none
        return []


def _attribute(number: int, name: str) -> bytes | None:
    try:
        return os.getxattr(number, name) if sys.platform == "linux" else None
    except OSError:
        return None


def _overwrite(path: str, data: bytes, expected: bytes | None) -> None:
    """Write a regular file in its place, because no other file may take that.

    If that fails, its content is put back.
    """
    number = os.open(path, os.O_RDWR | _BINARY)
    try:
        with open(number, "rb", closefd=False) as file:
            before = file.read()
        if expected is not None and before != expected:
            raise FileChanged
        try:
            _rewrite(number, data)
        except BaseException:
            _restore_content(number, before)
            raise
    finally:
        os.close(number)


def _rewrite(number: int, data: bytes) -> None:
    """Write the content of an open file anew, with its space taken before anything is lost."""
    if sys.platform != "win32" and hasattr(os, "posix_fallocate") and data:
        try:
            os.posix_fallocate(number, 0, len(data))
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not on this file system
                raise
    _write_from_start(number, data)
    os.fsync(number)


def _restore_content(number: int, before: bytes) -> None:
    for _ in range(3):
        try:
            try:
                _write_from_start(number, before)
            finally:
                os.ftruncate(number, len(before))
            return
        except KeyboardInterrupt:  # what made this necessary goes on
            continue


def _write_from_start(number: int, data: bytes) -> None:
    os.lseek(number, 0, os.SEEK_SET)
    _write_all(number, data)
    os.ftruncate(number, len(data))


def _write_all(number: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(number, rest) :]
        except BlockingIOError:  # another process has made this pipe or terminal non-blocking
            select.select([], [number], [])


def _remove(path: str) -> None:
    """Remove a file if it is there; an interrupt waits for that."""
    try:
        with contextlib.suppress(OSError):
            os.unlink(path)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _temporary_beside(path: str) -> str:
    """Return a new name in the folder of a file, which is swept the first time."""
    folder = os.path.dirname(path) or "."
    if folder not in _swept:
        _swept.add(folder)
        sweep(folder)
    return os.path.join(folder, f".gradlint-{os.urandom(8).hex()}.tmp")


def _separators() -> tuple[str, ...]:
    return (os.sep, os.altsep) if os.altsep else (os.sep,)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))
