"""The pipes between the three processes: each message follows its length in eight bytes."""

from __future__ import annotations

import os
from collections.abc import Callable

_HEADER = 8
"""Length of the number before each message."""
WORKER_STARTED = b""
"""The message that the supervisor sends when it starts the next worker."""


def pipe() -> tuple[int, int]:
    """Return a pipe that leaves the numbers of closed standard streams free."""
    import fcntl  # there is none without fork

    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


def send(descriptor: int, message: bytes, write: Callable[[int, memoryview], int] = os.write) -> None:
    """Send a message through a pipe."""
    data = memoryview(len(message).to_bytes(_HEADER, "big") + message)
    while data:
        data = data[write(descriptor, data) :]


class Inbox:
    """The messages that arrive through a pipe."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.is_open = True
        """False once the other end is closed: no more will arrive."""
        self._data = bytearray()

    def read(self) -> None:
        """Wait for a part of a message, or for the end of all."""
        part = os.read(self.descriptor, 2**20)
        self._data += part
        self.is_open = bool(part)

    def has_message(self) -> bool:
        """Return True if a whole message has arrived."""
        return len(self._data) >= _HEADER and len(self._data) >= self._end()

    def take(self) -> bytes | None:
        """Return the next message that has arrived; None if there is none."""
        if not self.has_message():
            return None
        end = self._end()
        message = bytes(self._data[_HEADER:end])
        del self._data[:end]
        return message

    def _end(self) -> int:
        return _HEADER + int.from_bytes(self._data[:_HEADER], "big")
