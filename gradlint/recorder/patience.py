"""When to give up on training that makes no progress."""

from __future__ import annotations

import time
from collections.abc import Callable

from gradlint.recorder.ledger.training_log import TrainingLog

LIMIT = 500
"""Number of calls without a backward pass, or of backward passes without a step, after which to give up."""
SECONDS = 60.0
"""Seconds without a backward pass that must have passed too: a validation or a sampler makes many calls before one."""
PASSES_BY_HAND = 50
"""Number of backward passes after which to give up on a script that makes no optimizer, as it steps by hand."""


class Patience:
    """Returns True once training makes no progress any more.

    Args:
        training: what was recorded so far.
        has_optimizer: whether there is an optimizer.
        limit: as `LIMIT`, but without regard to time; None for the default.
    """

    def __init__(self, training: TrainingLog, has_optimizer: Callable[[], bool], limit: int | None = None) -> None:
        self._training = training
        self._has_optimizer = has_optimizer
        self._by_hand = PASSES_BY_HAND if limit is None else limit
        self._calls = _Wait(LIMIT if limit is None else limit, SECONDS if limit is None else 0.0)
        self._passes = _Wait(LIMIT if limit is None else limit, 0.0)

    def is_lost(self, calls: int) -> bool:
        """Return True if training makes no progress any more.

        Args:
            calls: the number of calls of models so far.
        """
        passes, steps = len(self._training.backwards), len(self._training.steps)
        if passes >= self._by_hand and not self._has_optimizer():
            return True
        return self._calls.is_over(calls, passes) or self._passes.is_over(passes, steps)


class _Wait:
    """Counts one thing until another one happens."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._progress = -1
        self._from = 0
        self._since = 0.0

    def is_over(self, count: int, progress: int) -> bool:
        """Return True if there were too many since the latest progress, for too long."""
        if progress != self._progress:
            self._progress, self._from, self._since = progress, count, time.monotonic()
        return count - self._from >= self._limit and time.monotonic() - self._since >= self._seconds
