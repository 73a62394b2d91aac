"""Python's garbage collector, kept from going through all of torch again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

_FROZEN_BY_PYTHON = 1000
"""Python 3.12 begins with some 400 frozen objects; a call of `gc.freeze` takes in thousands, whatever was imported."""


class _Process:
    own = False
    """Whether it is gradlint's, so that what is frozen may stay so."""


def mark_own_process() -> None:
    """To be called where a process of gradlint's own begins."""
    _Process.own = True


@contextlib.contextmanager
def frozen_imports() -> Iterator[None]:
    """For imports at the beginning of a process of gradlint's own: what is there afterwards is never looked at again.
    Does nothing in one of somebody else's.

    Collections make a seventh of the time that ``import torch`` takes, and as much of the time of what is imported
    after it, for each of them goes through all of torch again. To the code that runs later the collector is as ever.
    """
    if not _Process.own:
        yield
        return
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def gc_paused(until: Callable[[], bool]) -> Iterator[None]:
    """Have the collector pass over what is there, and over what survives a full collection before `until` says that
    it is to look again: imports, which stay.

    In a process of somebody else's all is undone at exit, and nothing is done where it has frozen something itself.
    In one of gradlint's own it stays so, and what is given up of it is not freed before somebody calls `gc.unfreeze`.
    """
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON and not _Process.own:
        yield
        return

    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and not until():
            gc.freeze()

    if not _Process.own:
        gc.freeze()
    gc.callbacks.append(collected)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the user's code has cleared the list
            gc.callbacks.remove(collected)
        if not _Process.own:
            gc.unfreeze()
