"""Which of the user's functions ran while recording: source facts are judged only inside them."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import CodeType, FrameType
from typing import Any


@contextlib.contextmanager
def executed(codes: dict[int, CodeType], *, hot: bool = False) -> Iterator[None]:
    """Collect the code objects that run, by identity.

    `hot` says that the code inside is timed by many calls (a forward): before Python 3.12 only a profile function can
    see calls, which is too slow there, and the functions that make torch calls are known from their sites anyway.
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

        sys.setprofile(note)
        try:
            yield
        finally:
            if sys.getprofile() is note:
                sys.setprofile(None)


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
