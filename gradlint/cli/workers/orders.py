"""What the process that the user started asks of its supervisor."""

from __future__ import annotations

import os
import select

INTERRUPT, KILL = b"i", b"k"


class Orders:
    """The orders that arrive at a supervisor."""

    def __init__(self, descriptor: int) -> None:
        self.is_ending = False
        """True once the process that started this one has asked it to end."""
        self._descriptor = descriptor

    def fileno(self) -> int:
        """Return the descriptor of their pipe."""
        return self._descriptor

    def read(self) -> bytes:
        """Return the last order; empty without a new one."""
        if not select.select([self], [], [], 0)[0]:
            return b""
        self.is_ending = True
        return os.read(self._descriptor, 16)[-1:] or KILL
