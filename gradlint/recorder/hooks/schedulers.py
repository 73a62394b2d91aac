"""Hook the steps of learning-rate schedulers."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import on_recorder_thread, patch
from gradlint.recorder.ledger.learning_rates import learning_rates
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.system.undo import Undo
from gradlint.traces.events import SchedulerStepCalled
from gradlint.traces.ids import NO_SITE, OptimizerKey, SiteId
from gradlint.traces.training import Schedule

_OPTIM = os.path.join("torch", "optim") + os.sep
_SEEN = "_gradlint_sees_steps"
"""Mark of the step functions of schedulers that are hooked."""


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog, ledger: Ledger) -> None:
    """Set the hooks until `undo` removes them."""
    running: set[int] = set()  # the schedulers whose step has not returned
    patch(undo, LRScheduler, "__init__", _scheduler_init, recorder, log, ledger, undo, running)
    for cls in _with_own_step(LRScheduler):
        patch(undo, cls, "step", _scheduler_step, recorder, log, ledger, running)


def _with_own_step(cls: type) -> list[type]:
    subclasses: list[type] = cls.__subclasses__()
    classes = [cls] if "step" in cls.__dict__ else []
    return classes + [c for subclass in subclasses for c in _with_own_step(subclass)]


def _scheduler_init(
    original: Any, recorder: Recorder, log: HookLog, ledger: Ledger, undo: Undo, running: set[int]
) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if on_recorder_thread(recorder) and not recorder.paused:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and local_variables(frame).get("self") is self:
                frame = frame.f_back
            log.schedulers.append((self, recorder.walk(frame).site))
        for cls in type(self).__mro__:  # classes that were defined since the recording began
            step = cls.__dict__.get("step")
            if step is not None and not hasattr(step, _SEEN) and issubclass(cls, LRScheduler):
                patch(undo, cls, "step", _scheduler_step, recorder, log, ledger, running)
        original(self, *args, **kwargs)

    return __init__


def _scheduler_step(original: Any, recorder: Recorder, log: HookLog, ledger: Ledger, running: set[int]) -> Any:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        # a scheduler steps itself on construction, some schedulers step others, and some call the step of their base
        by_torch = _OPTIM in sys._getframe(1).f_code.co_filename
        if id(self) in running or not on_recorder_thread(recorder):
            return original(self, *args, **kwargs)
        running.add(id(self))
        try:
            if not ledger.following or by_torch or recorder.paused:
                return original(self, *args, **kwargs)
            made_at = next((site for scheduler, site in log.schedulers if scheduler is self), NO_SITE)
            with _noting_rates(recorder, ledger.training, self, made_at, recorder.walk(sys._getframe(1)).site):
                return original(self, *args, **kwargs)
        finally:
            running.discard(id(self))

    setattr(step, _SEEN, True)
    return step


@contextlib.contextmanager
def _noting_rates(
    recorder: Recorder, training: TrainingLog, scheduler: Any, made_at: SiteId, site: SiteId
) -> Iterator[None]:
    """Note that user code steps a scheduler inside, and the rates that this changes."""
    optimizer = getattr(scheduler, "optimizer", None)
    key = OptimizerKey(id(optimizer))
    event = recorder.tape.event(SchedulerStepCalled, site, key)
    before = learning_rates(optimizer)
    try:
        yield
    finally:
        after = learning_rates(optimizer)
        changed = frozenset(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
        base_rates = getattr(scheduler, "base_lrs", None)
        known = len(base_rates if isinstance(base_rates, list) else after)
        by_metric = isinstance(scheduler, ReduceLROnPlateau)
        training.schedules.append(Schedule(event.number, site, key, made_at, known, changed, by_metric))
