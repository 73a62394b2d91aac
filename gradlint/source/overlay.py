"""Reading source files, or what stands for them: stdin, and text that is fixed and not written yet."""

from __future__ import annotations

import os

_instead: dict[str, bytes] = {}


def read(path: str) -> bytes:
    """The bytes of a file.

    Raises:
        OSError: it cannot be read.
    """
    if path in _instead:
        return _instead[path]
    with open(path, "rb") as file:
        return file.read()


def stand_in(path: str, data: bytes) -> None:
    """Let bytes stand for a file until `forget`."""
    _instead[path] = data


def stands_in(path: str) -> bool:
    """Whether bytes stand for a file."""
    return path in _instead


def forget() -> None:
    """Read files themselves again."""
    _instead.clear()


def exists(path: str) -> bool:
    """Whether there is something to read."""
    return path in _instead or os.path.isfile(path)
