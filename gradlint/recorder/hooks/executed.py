"""Collect the functions that run while recording: source rules judge only their code."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from gradlint.traces.sites import is_project


@contextlib.contextmanager
def collecting_codes(codes: dict[int, CodeType], *, hot: bool = False) -> Iterator[None]:
    """Collect the code objects that run, by identity.

    `hot` is True for code of many calls, such as a forward. Before Python 3.12 only a profile function sees calls,
    which is too slow there; functions that make torch calls are known from their sites anyway.
    """
    if sys.version_info >= (3, 12):
        with _monitored(codes):
            yield
    elif hot or sys.getprofile() is not None:
        yield
    else:

        def note(frame: FrameType, event: str, argument: Any) -> None:
            if event == "call":
                code = frame.f_code
                codes[id(code)] = code

        with _libraries_unwatched(note):
            sys.setprofile(note)
            try:
                yield
            finally:
                if sys.getprofile() is note:
                    sys.setprofile(None)


@contextlib.contextmanager
def _libraries_unwatched(note: Any) -> Iterator[None]:
    """Remove the profile function while a library is imported.

    transformers alone makes millions of calls.
    """
    original = builtins.__import__

    def __import__(name: str, *args: Any, **kwargs: Any) -> Any:
        top = name.partition(".")[0]
        if sys.getprofile() is not note or not top or _own(top):
            return original(name, *args, **kwargs)
        sys.setprofile(None)
        try:
            return original(name, *args, **kwargs)
        finally:
            if sys.getprofile() is None:
                sys.setprofile(note)

    builtins.__import__ = __import__
    try:
        yield
    finally:
        if builtins.__import__ is __import__:
            builtins.__import__ = original


def _own(top: str) -> bool:
    """Return True if a top-level module is the user's own, without importing it."""
    module = sys.modules.get(top)
    if module is not None:
        return is_project(getattr(module, "__file__", None) or "<none>")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return True
    return spec is None or is_project(spec.origin or "<none>")


if sys.version_info >= (3, 12):

    @contextlib.contextmanager
    def _monitored(codes: dict[int, CodeType]) -> Iterator[None]:
        monitoring = sys.monitoring
        tool = next((i for i in (4, 3) if monitoring.get_tool(i) is None), None)
        if tool is None:
            yield
            return

        def note(code: CodeType, offset: int) -> Any:
            codes[id(code)] = code
            return monitoring.DISABLE

        monitoring.use_tool_id(tool, "gradlint")
        try:
            monitoring.register_callback(tool, monitoring.events.PY_START, note)
            monitoring.restart_events()  # an earlier recording has switched its places off
            monitoring.set_events(tool, monitoring.events.PY_START)
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.register_callback(tool, monitoring.events.PY_START, None)
            monitoring.free_tool_id(tool)
