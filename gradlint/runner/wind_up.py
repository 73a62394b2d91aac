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
import weakref
from collections.abc import Collection, Iterable, Iterator
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

from gradlint.traces.sites import is_project

_BUFFERED = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
"""Types of objects that may hold data not yet written to a file."""
_DEFINITIONS = (ModuleType, type, FunctionType, BuiltinFunctionType)
"""Types of what finalizers may need until they are done."""
_WITNESS = "__gradlint_end__"
"""The name, in a namespace, of a function that is gone once the namespace is."""


def wind_up(before: Collection[int], *, finalizes: bool) -> None:
    """Do what Python does at its end, without taking libraries apart.

    After torch and transformers that takes half as long as importing torch. A collection of all objects takes a fifth
    of that: it is left out if no file is open for writing and no class of the user's finalizes itself.

    Args:
        before: the descriptors that were open before user code ran.
        finalizes: whether user code leaves what it must finalize, although no file is open for writing.
    """
    getattr(threading, "_shutdown", lambda: None)()
    atexit._run_exitfuncs()
    streams = [sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__]
    collects = finalizes and _has_finalizers()
    if collects or _writes(before):
        outlived = _finalize_user_modules()
        if outlived and (collects or _writes(before)):
            gc.collect()  # what only the namespaces held
        if _writes(before):
            _flush(thing for thing in gc.get_objects() if type(thing) in _BUFFERED)
    elif finalizes:
        _drop_user_values()
    _flush(streams)
    with contextlib.suppress(Exception):
        ctypes.CDLL(None).fflush(None)  # what libraries wrote by C's printf


def _flush(streams: Iterable[Any]) -> None:
    for stream in streams:
        with contextlib.suppress(Exception):
            stream.flush()


def _finalize_user_modules() -> bool:
    """Drop the user's modules and collect them, then clear those that something keeps alive.

    A signal handler does so, for example. A ZipFile writes its directory when it is finalized.

    Returns:
        True if there were some to clear.
    """
    threading.excepthook = lambda _: None  # Python stops daemon threads before it does this
    gc.unfreeze()
    witnesses = [_witness(vars(sys.modules.pop(name))) for name in reversed(list(_names_of_user_modules()))]
    gc.collect()
    kept = [witness for reference in witnesses if (witness := reference()) is not None]
    for witness in kept:
        namespace = witness.__globals__
        for name in [n for n in namespace if n != "__builtins__"]:
            namespace[name] = None
    return bool(kept)


def _witness(namespace: dict[str, Any]) -> weakref.ref[FunctionType]:
    """Return a reference to a function in a namespace, which lives as long as that does."""
    function = namespace[_WITNESS] = FunctionType(_flush.__code__, namespace)
    return weakref.ref(function)


def _drop_user_values() -> None:
    """Drop the values in the user's modules, the latest ones first.

    Functions, classes and libraries stay for what finalizes itself, such as a generator with a finally block.
    """
    threading.excepthook = lambda _: None
    for name in sorted(_names_of_user_modules(), key=lambda name: name == "__main__")[::-1]:
        namespace = vars(sys.modules[name])
        for variable in reversed([n for n, value in namespace.items() if not isinstance(value, _DEFINITIONS)]):
            if not variable.startswith("__"):
                namespace[variable] = None
    gc.collect()


def _has_finalizers() -> bool:
    """Return True if a class of the user's has a ``__del__``."""
    names = set(_names_of_user_modules())
    pending: list[type] = [object]
    seen: set[int] = set()
    while pending:
        below: list[type] = type.__subclasses__(pending.pop())
        for kind in below:
            if id(kind) not in seen:
                seen.add(id(kind))
                pending.append(kind)
                if vars(kind).get("__module__") in names and any("__del__" in vars(base) for base in kind.__mro__):
                    return True
    return False


def _names_of_user_modules() -> Iterator[str]:
    for name, module in list(sys.modules.items()):
        file = vars(module).get("__file__") if isinstance(module, ModuleType) else None
        if isinstance(file, str) and is_project(file):
            yield name


def _writes(before: Collection[int]) -> bool:
    """Return True if a file may be open for writing.

    The three standard streams and those of `before` do not count, nor do files that are deleted and devices that are no
    terminal: nobody reads what is left to write there.
    """
    try:
        import fcntl

        opened = {int(name) for name in os.listdir("/proc/self/fd")}.difference(before)
    except (ImportError, OSError, ValueError):
        return True
    for number in opened:
        with contextlib.suppress(OSError):  # that of the listing itself
            status = os.fstat(number)
            written = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            kept = stat.S_ISREG(status.st_mode) and status.st_nlink
            if number > 2 and written and (kept or stat.S_ISFIFO(status.st_mode) or os.isatty(number)):
                return True
    return False
