"""Keep warnings at the user's line: frames of gradlint between a call and its caller do not count."""

from __future__ import annotations

import os
import sys
import threading
import warnings
from types import FrameType
from typing import Any

from gradlint.load.build import passes_on
from gradlint.recorder.calls.call_chains import BASE_FRAME
from gradlint.system.installed import OWN_FOLDER
from gradlint.system.undo import Undo

_OVERRIDES = os.path.join("torch", "overrides.py")
"""The file in which torch passes a call on to the recorder."""


def keep_warning_lines(undo: Undo) -> None:
    """Give warnings the place that they have without gradlint."""
    module: Any = warnings
    original = getattr(module, "_showwarnmsg", None)
    if original is None:
        return
    local = threading.local()

    def _showwarnmsg(message: Any) -> None:
        place = None if getattr(local, "moving", False) else _true_place(message, sys._getframe(1))
        if place is None:
            original(message)
            return
        wrong, right = place
        known = wrong.f_globals.get("__warningregistry__", {})
        known.pop((str(message.message), message.category, message.lineno), None)
        local.moving = True
        try:
            warnings.warn_explicit(
                message.message,
                message.category,
                right.f_code.co_filename,
                right.f_lineno,
                right.f_globals.get("__name__") or "<unknown>",
                right.f_globals.setdefault("__warningregistry__", {}),
                source=message.source,
            )
        finally:
            local.moving = False

    undo.replace(module, "_showwarnmsg", _showwarnmsg)


def _true_place(message: Any, warner: FrameType) -> tuple[FrameType, FrameType] | None:
    """Return the frame that a warning names and the one that it means.

    None if they are the same.

    Args:
        message: the warning, with file and line.
        warner: the frame that gave it.
    """
    frame: FrameType | None = warner
    level, is_between = 0, False
    while frame is not None:
        level += 1
        is_between = is_between or _is_own(frame)
        if frame.f_code.co_filename == message.filename and frame.f_lineno == message.lineno:
            break
        frame = frame.f_back
    if frame is None or not is_between or (_is_own(warner) and not passes_on(warner.f_code)):
        return None
    right = _caller(warner, level)
    return None if right is None or right is frame else (frame, right)


def _caller(frame: FrameType | None, level: int) -> FrameType | None:
    """Return the frame so many levels up, as if gradlint had passed no call on."""
    below: FrameType | None = None
    while frame is not None:
        if _is_own(frame):
            if frame.f_code.co_name == BASE_FRAME:
                return below
            passed = frame
            while passed.f_back is not None and (_is_own(passed) or passed.f_code.co_filename.endswith(_OVERRIDES)):
                if passed.f_code.co_name == BASE_FRAME:
                    return below
                passed = passed.f_back
            if below is not None and passed.f_code is below.f_code:  # it asked torch to pass the call on
                frame = passed.f_back
            else:
                frame = passed
            continue
        level -= 1
        if level == 0:
            return frame
        below, frame = frame, frame.f_back
    return below


def _is_own(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OWN_FOLDER)
