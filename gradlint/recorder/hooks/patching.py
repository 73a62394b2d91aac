"""Patch attributes and register global hooks of torch for the time of a recording."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from gradlint.recorder.calls.mode import Recorder
from gradlint.system.undo import Undo


def on_recorder_thread(recorder: Recorder) -> bool:
    """Return True in the thread that is recorded."""
    return threading.get_ident() == recorder.thread


def patch(undo: Undo, owner: Any, name: str, wrapper: Callable[..., Any], *args: Any) -> None:
    """Replace an attribute by ``wrapper(attribute, *args)`` until it is undone."""
    undo.replace(owner, name, wrapper(owner.__dict__[name], *args))


def register(undo: Undo, hooks: Any, registration: Callable[[Any], Any], hook: Callable[..., Any]) -> None:
    """Register a global hook of torch until it is undone.

    `hooks` is torch's table of such hooks, from which it is removed even if its registration never returned.
    """
    undo.call(_remove, hooks, hook)
    registration(hook)


def _remove(hooks: dict[int, Any], hook: Callable[..., Any]) -> None:
    for key in [key for key, value in hooks.items() if value is hook]:
        del hooks[key]
