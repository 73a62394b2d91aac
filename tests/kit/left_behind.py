"""Looks for processes that should be gone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def still_alive_in(folder: Path, seconds: float = 20.0) -> list[str]:
    """Wait until no process works in a folder; return those that do all the same, and kill them."""
    limit = time.monotonic() + seconds
    while (alive := working_in(folder)) and time.monotonic() < limit:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    return list(alive.values())


def working_in(folder: Path) -> dict[int, str]:
    """Return the processes that work in a folder or below it: process id → command line; Linux only."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink().is_relative_to(folder):
                found[int(process.name)] = f"{process.name} {(process / 'cmdline').read_bytes()!r}"
        except OSError:
            pass
    return found
