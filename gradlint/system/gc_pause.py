"""Keep Python's garbage collector from scanning all of torch again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

from gradlint.system.process_tree import is_own_process

_NEVER = 1_000_000
"""Number of collections of the middle generation before a full one, while there is to be none."""


@contextlib.contextmanager
def frozen_imports() -> Iterator[None]:
    """Freeze every object that exists once the imports inside are done.

    Does nothing in a process that gradlint did not start. Collections take a seventh of the time of ``import torch``
    and of the imports after it, as each collection scans all of torch again. Objects created later are collected as
    usual.
    """
    if not is_own_process():
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


class ImportsUnscanned:
    """Keeps the collector from scanning all objects again and again while user code imports its libraries.

    Existing objects are frozen, and full collections wait until `end`. Does nothing in a process that gradlint did not
    start: its collector is the user's. A callback of the collector would lose every Ctrl-C that arrives while it runs.
    """

    def __init__(self) -> None:
        self._thresholds = gc.get_threshold()

    def __enter__(self) -> ImportsUnscanned:
        if is_own_process():
            gc.freeze()
            young, middle, _ = self._thresholds
            gc.set_threshold(young, middle, _NEVER)
        return self

    def end(self) -> None:
        """Freeze what the imports left, once they are done."""
        if gc.get_threshold()[2] == _NEVER:
            gc.set_threshold(*self._thresholds)
            gc.freeze()

    def __exit__(self, *exception: object) -> None:
        if gc.get_threshold()[2] == _NEVER:
            gc.set_threshold(*self._thresholds)
