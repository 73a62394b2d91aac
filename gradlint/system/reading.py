"""Reading files that somebody named, which may be pipes or devices: none holds gradlint up or fills its memory."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from pathlib import Path

MOST = 64 * 2**20
"""Number of bytes that a pipe or a device may give."""
PIPE_TIMEOUT = 10.0
"""Seconds to wait until another process opens a named pipe for writing."""
_PART = 2**16
_OPENED = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0)
_AT_ONCE = getattr(os, "O_NONBLOCK", 0)


def read(path: str | Path) -> bytes:
    """Return the content of a file.

    Raises:
        OSError: it cannot be read, nobody writes to it, or it is a device without end.
    """
    number = os.open(path, _OPENED | _AT_ONCE)
    with open(number, "rb", buffering=0) as file:
        kind = os.fstat(number).st_mode
        if stat.S_ISREG(kind):
            return file.read()
        part = _first_part(number) if stat.S_ISFIFO(kind) else None
        if _AT_ONCE:
            os.set_blocking(number, True)
        part = file.read(_PART) if part is None else part
        content = bytearray()
        while part:
            content += part
            if len(content) > MOST:
                raise OSError(f"it gives more than {MOST >> 20} MiB and is no regular file")
            part = file.read(_PART)
        return bytes(content)


def _first_part(number: int) -> bytes:
    """Return the first bytes that a pipe gives; none once its last writer has closed it.

    Raises:
        OSError: nobody writes to it.
    """
    limit = time.monotonic() + PIPE_TIMEOUT
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while True:
        with contextlib.suppress(BlockingIOError):  # a writer is there and silent
            part = os.read(number, _PART)
            if part or [event for _, event in poll.poll(0)] == [select.POLLHUP]:
                return part
            if time.monotonic() > limit:
                raise OSError("nobody writes to this pipe")
        time.sleep(0.02)
