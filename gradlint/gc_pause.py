"""Keep Python's garbage collector from scanning all of torch again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator

_FROZEN_BY_PYTHON = 1000
"""Python 3.12 starts with some 400 frozen objects; a call of `gc.freeze` adds thousands, whatever was imported."""


class _Process:
    is_own = False
    """True if this process is gradlint's own, so that frozen objects may stay frozen."""


def mark_own_process() -> None:
    """Declare this process gradlint's own, at its start."""
    _Process.is_own = True


def is_own_process() -> bool:
    """Return True if this process is gradlint's own."""
    return _Process.is_own


@contextlib.contextmanager
def frozen_imports() -> Iterator[None]:
    """Freeze every object that exists once the imports inside are done.

    Does nothing in a process that gradlint did not start. Collections take a seventh of the time of ``import torch``
    and of the imports after it, as each collection scans all of torch again. Objects created later are collected as
    usual.
    """
    if not _Process.is_own:
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
    """Freeze existing objects and later imports, so that the collector does not scan them.

    Objects that survive a full collection are frozen too, until `until` returns True. In a process that gradlint did
    not start, everything is unfrozen at exit; if that process has frozen objects itself, nothing is done. In gradlint's
    own process objects stay frozen, so garbage among them is freed only after `gc.unfreeze`.
    """
    if gc.get_freeze_count() > _FROZEN_BY_PYTHON and not _Process.is_own:
        yield
        return

    def freeze_survivors(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and not until():
            gc.freeze()

    if not _Process.is_own:
        gc.freeze()
    gc.callbacks.append(freeze_survivors)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # user code has cleared the list
            gc.callbacks.remove(freeze_survivors)
        if not _Process.is_own:
            gc.unfreeze()
