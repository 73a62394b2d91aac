"""Faults at every call of the operating system that writing a file makes.

python tests/kit/write_faults.py     the table: ways of writing × faults, and what went wrong
"""

from __future__ import annotations

import collections
import errno
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from snippets import write

from gradlint.system import writing

OLD, NEW = b"old\n" * 3, b"new content\n" * 50


# -- what is written to -----------------------------------------------------------------------------------------------


def linked(where: Path) -> Path:
    (where / "link").symlink_to(write(where / "there/real", OLD))
    return where / "link"


def twice_named(where: Path) -> Path:
    os.link(write(where / "file", OLD), where / "other")
    return where / "other"


def new(where: Path) -> Path:
    return where / "file"


def regular(where: Path) -> Path:
    return write(where / "file", OLD)


# -- faults -----------------------------------------------------------------------------------------------------------


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
    writing.write(path, NEW, expected=OLD)


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
    with mock.patch.object(writing, "os", watched):
        act(place(tmp_path / "counted"))
    for name in dict.fromkeys(watched.calls):
        for number in range(1, watched.calls.count(name) + 1):
            for fault in (*NUMBERS, "KeyboardInterrupt"):
                for how in ("once", "on", "half", "late") if name == "write" else ("once", "late"):
                    yield name, number, fault, how


def inject(way: str, folder: Path, few: bool = False) -> tuple[collections.Counter[str], list[str]]:
    """Inject every fault into one way of writing.

    Args:
        way: one of `WAYS`.
        folder: an empty one.
        few: leave out most kinds of faults.

    Returns:
        Fault → how many were injected; and what went wrong, in words.
    """
    place, act = WAYS[way]
    injected: collections.Counter[str] = collections.Counter()
    wrong = []
    for name, number, fault, how in list(faults(way, folder)):
        if few and (fault not in ("ENOSPC", "KeyboardInterrupt") or how == "late"):
            continue
        where = folder / str(injected.total())
        where.mkdir()
        injected[fault] += 1
        path = place(where)
        before = path.read_bytes() if path.exists() else None
        names = set(where.rglob("*"))
        raised: BaseException | None = None
        faulty = Faulty(name, number, fault_of(fault), how)
        with mock.patch.object(writing, "os", faulty):
            try:
                act(path)
            except BaseException as error:
                raised = error
        said = f"{way}: {name}() number {number}: {fault}, {how}: {raised!r}"
        after = path.read_bytes() if path.exists() else None
        if after not in (before, NEW):
            wrong.append(f"{said}: half a file")
        if set(where.rglob("*")) - {path} != names - {path}:
            wrong.append(f"{said}: something is left")
        if raised is None and after != NEW:
            wrong.append(f"{said}: nobody is told")
        if fault == "KeyboardInterrupt" and faulty.raised and not isinstance(raised, KeyboardInterrupt):
            wrong.append(f"{said}: the interrupt is lost")
    return injected, wrong


def main() -> None:
    """Print the table."""
    kinds = (*NUMBERS, "KeyboardInterrupt")
    width = max(map(len, WAYS))
    print(" " * width, *kinds, "all", "wrong", sep=" | ")
    total = failed = 0
    for way in WAYS:
        with tempfile.TemporaryDirectory() as folder:
            injected, wrong = inject(way, Path(folder))
        total, failed = total + injected.total(), failed + len(wrong)
        cells = (str(injected[kind]).rjust(len(kind)) for kind in kinds)
        print(way.ljust(width), *cells, f"{injected.total():3}", f"{len(wrong):5}", sep=" | ")
        print(*wrong, sep="\n", end="\n" * bool(wrong), file=sys.stderr)
    print(f"{total} faults, {failed} wrong")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
