"""Reading source files, or bytes that replace them: stdin, and fixed text that is not written yet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping

from gradlint.system import reading

_instead: dict[str, bytes] = {}


def read(path: str) -> bytes:
    """Return the bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    if path in _instead:
        return _instead[path]
    return reading.read(path)


def stand_in(path: str, data: bytes) -> None:
    """Use these bytes instead of a file until `forget`."""
    _instead[path] = data


@contextlib.contextmanager
def in_place_of(texts: Mapping[str, bytes]) -> Iterator[None]:
    """Use these bytes, by path, instead of files inside."""
    before = dict(_instead)
    _instead.update(texts)
    try:
        yield
    finally:
        _instead.clear()
        _instead.update(before)


def stands_in(path: str) -> bool:
    """Return True if other bytes replace a file."""
    return path in _instead


def forget() -> None:
    """Read files themselves again."""
    _instead.clear()


def exists(path: str) -> bool:
    """Return True if there is anything to read."""
    return path in _instead or os.path.isfile(path)
