"""Read a frame's local variables without keeping them alive."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

_KEEPS_SNAPSHOT = sys.version_info < (3, 13)
"""True if Python stores the dict that ``f_locals`` returns on the frame, until the function ends."""
_HELD_BY_FRAME_ALONE = 3
"""Reference count of that dict: the frame, our variable, and the argument of ``getrefcount``."""


def local_variables(frame: FrameType) -> Mapping[str, Any]:
    """Return the local variables of a frame, and leave no snapshot of them on it.

    A snapshot would keep the user's tensors alive after they are overwritten. It stays if somebody else holds it
    (``hyperparameters = locals()``), or if a debugger follows the frame and writes it back.
    """
    snapshot = frame.f_locals
    if not (_KEEPS_SNAPSHOT and frame.f_code.co_flags & inspect.CO_OPTIMIZED):
        return snapshot  # a proxy, or the real namespace of a module or class body
    variables = dict(snapshot)
    if frame.f_trace is None and sys.getrefcount(snapshot) <= _HELD_BY_FRAME_ALONE:
        snapshot.clear()
    return variables
