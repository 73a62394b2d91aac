"""Which process is gradlint's own; of those that user code starts, the memory and the end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_SIGNALS = (0, signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM))
"""What ends a process: nothing but patience at first."""


_is_own = False


def mark_own_process() -> None:
    """Declare this process gradlint's own, at its start."""
    global _is_own
    _is_own = True


def is_own_process() -> bool:
    """Return True if gradlint has started this process, so that no state of it is the user's."""
    return _is_own


def open_descriptors() -> list[int]:
    """Return the file descriptors of this process; none where the system does not list them."""
    numbers = []
    with contextlib.suppress(OSError):
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    return [number for number in numbers if _is_open(number)]  # that of the listing is closed


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def adopt_orphans(flag: bool = True) -> bool:
    """Become the parent of descendants whose own parents end, or stop being it; Linux only.

    Returns:
        True if the system did so.
    """
    if sys.platform.startswith("linux"):
        import ctypes  # torch imports it too

        with contextlib.suppress(OSError, AttributeError):
            return bool(ctypes.CDLL(None).prctl(36, int(flag), 0, 0, 0) == 0)  # PR_SET_CHILD_SUBREAPER
    return False


def end_with_parent() -> None:
    """Let the system kill this process when its parent ends; Linux only."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(ImportError, OSError, AttributeError):
            import ctypes  # not everywhere there

            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def end_orphans(seconds: float) -> None:
    """End all children of this process.

    They get some seconds to end by themselves, and some after each signal.
    """
    for number in _SIGNALS:
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            if not _has_children():
                return
            for pid in children(os.getpid()) if number else ():
                with contextlib.suppress(OSError):
                    os.kill(pid, number)
            time.sleep(0.01)


def _has_children() -> bool:
    """Return True if a child is alive; those that have ended are forgotten."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def end_tree(pid: int) -> None:
    """End a process of Windows and all that it started."""
    import subprocess  # on Windows alone

    subprocess.run(["taskkill", "/F", "/T", "/PID", str(pid)], capture_output=True, check=False)


def children(parent: int) -> list[int]:
    """Return the processes that a process is the parent of; Linux only."""
    try:
        pids: list[int] = []
        for thread in os.listdir(f"/proc/{parent}/task"):
            with contextlib.suppress(OSError):  # the thread has ended
                with open(f"/proc/{parent}/task/{thread}/children", encoding="ascii") as file:
                    pids += map(int, file.read().split())
        return pids
    except OSError:
        return []


def family(parent: int) -> Iterator[int]:
    """Yield a process, and all that come from it."""
    todo = [parent]
    while todo:
        yield todo[-1]
        todo += children(todo.pop())


def can_measure_memory() -> bool:
    """Return True if the system says what a process takes."""
    return os.path.exists("/proc/self/smaps_rollup")


def memory_exceeds(process: int, limit: int) -> bool:
    """Return True if a process and those that come from it take more bytes than a limit.

    What they share counts once. That is slow to find out, so it is asked only if the plain sum exceeds the limit.
    """
    return _sum(process, _resident) > limit and _sum(process, _proportional) > limit


def _sum(process: int, measure: Callable[[int], int]) -> int:
    total = 0
    for pid in family(process):
        with contextlib.suppress(OSError, ValueError):  # it has ended
            total += measure(pid)
    return total


def _resident(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE


def _proportional(pid: int) -> int:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return sum(int(line.split()[1]) * 1024 for line in file if line.startswith("Pss:"))
