"""Collect the functions that run while recording: source rules judge only their code."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any

from gradlint.system.undo import Undo
from gradlint.traces.sites import is_project


class ExecutedCode:
    """Collects the code objects that run, by identity, while `collecting`."""

    def __init__(self, undo: Undo) -> None:
        """Prepare to collect; `undo` ends it at the latest."""
        self.codes: dict[int, CodeType] = {}
        self._undo = undo

    @contextlib.contextmanager
    def collecting(self, *, hot: bool = False) -> Iterator[None]:
        """Collect what runs inside.

        `hot` is True for code of many calls, such as a forward. Before Python 3.12 only a profile function sees calls,
        which is too slow there; functions that make torch calls are known from their sites anyway.
        """
        with self._undo.part() as part:
            self.collect(part, hot=hot)
            yield

    def collect(self, undo: Undo, *, hot: bool = False) -> None:
        """Collect what runs until it is undone."""
        if sys.version_info >= (3, 12):
            _monitor(undo, self.codes)
        elif not hot and sys.getprofile() is None:
            _profile(undo, self.codes)


def _profile(undo: Undo, codes: dict[int, CodeType]) -> None:
    def note(frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            codes[id(code)] = code

    def stop() -> None:
        if sys.getprofile() is note:
            sys.setprofile(None)

    _leave_libraries_out(undo, note)
    undo.call(stop)
    sys.setprofile(note)


def _leave_libraries_out(undo: Undo, note: Any) -> None:
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

    undo.replace(builtins, "__import__", __import__)


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

    def _monitor(undo: Undo, codes: dict[int, CodeType]) -> None:
        monitoring = sys.monitoring
        tool = next((i for i in (4, 3) if monitoring.get_tool(i) is None), None)
        if tool is None:
            return
        name = f"gradlint {id(codes)}"

        def note(code: CodeType, offset: int) -> Any:
            codes[id(code)] = code
            return monitoring.DISABLE

        def stop() -> None:
            if monitoring.get_tool(tool) == name:
                monitoring.set_events(tool, 0)
                monitoring.register_callback(tool, monitoring.events.PY_START, None)
                monitoring.free_tool_id(tool)

        undo.call(stop)
        monitoring.use_tool_id(tool, name)
        monitoring.register_callback(tool, monitoring.events.PY_START, note)
        monitoring.restart_events()  # an earlier recording has switched its places off
        monitoring.set_events(tool, monitoring.events.PY_START)
