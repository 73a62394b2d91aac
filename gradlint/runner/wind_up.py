"""The end of a process of user code: threads, exit handlers and buffers, as at the end of Python."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import io
import os
import stat
import sys
import threading
from collections.abc import Collection, Iterator
from types import ModuleType
from typing import Any

from gradlint.traces.sites import is_project

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""Types of objects that may hold data not yet written to a file."""


def wind_up(before: Collection[int] = ()) -> None:
    """Do what Python does at its end, without taking modules apart.

    After torch and transformers that takes half as long as importing torch.

    Args:
        before: the descriptors that were open before user code ran; if it has left no file open for writing, modules
            stay. Empty if that is not known.
    """
    getattr(threading, "_shutdown", lambda: None)()
    atexit._run_exitfuncs()
    opened: list[Any] = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    writes = _writes(before)
    if writes:
        gc.unfreeze()
    if writes or not before:
        _drop_user_modules(writes)  # what the script leaves is finalized: a ZipFile writes its directory then
    if writes:
        opened += [thing for thing in gc.get_objects() if type(thing) in _BUFFERED]
    for stream in opened:
        with contextlib.suppress(Exception):
            stream.flush()
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)  # what libraries wrote by C's printf


def _drop_user_modules(clear: bool) -> None:
    """Drop the user's modules.

    Args:
        clear: also clear those whose functions are kept alive, for example as a signal handler.
    """
    threading.excepthook = lambda _: None  # Python stops daemon threads before it does this
    names = list(_names_of_user_modules())
    dropped = {id(vars(sys.modules.pop(name))) for name in reversed(names)}
    gc.collect()
    alive = [thing for thing in gc.get_objects() if type(thing) is dict and id(thing) in dropped] if clear else []
    for namespace in alive:
        for name in [n for n in namespace if n != "__builtins__"] if namespace.get("__name__") in names else ():
            namespace[name] = None
    if alive:
        gc.collect()


def _names_of_user_modules() -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(file, str) and is_project(file):
            yield name


def _writes(before: Collection[int]) -> bool:
    """Return True if a file may be open for writing.

    The three standard streams and those of `before` do not count.
    """
    try:
        import fcntl

        opened = {int(name) for name in os.listdir("/proc/self/fd")}.difference(before)
    except (ImportError, OSError, ValueError):
        return True
    for number in opened:
        with contextlib.suppress(OSError):  # that of the listing itself
            mode = os.fstat(number).st_mode
            written = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if number > 2 and written and (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
                return True
    return False
