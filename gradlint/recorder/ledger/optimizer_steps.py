"""Follow optimizer steps from torch's hook before a step to the one after it, through their closures."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.kept_graphs import StepMark, mark
from gradlint.recorder.ledger.accumulated import AccumulatedGradients
from gradlint.recorder.ledger.backward_passes import BackwardPasses
from gradlint.recorder.ledger.gradient_masks import GradientMasks
from gradlint.recorder.ledger.rounding import count_updates
from gradlint.recorder.ledger.running_step import RunningStep
from gradlint.recorder.ledger.training_log import OpenStep, TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_readable, same_values
from gradlint.traces.events import StepCalled
from gradlint.traces.ids import OptimizerKey, ParameterKey, StepIndex
from gradlint.traces.training import Content

_TORCH_OPTIMIZERS = "torch.optim."
"""Modules of optimizers that never move parameters along their gradient before a closure."""


class OptimizerSteps:
    """The steps that have not returned, and what they apply."""

    def __init__(
        self,
        recorder: Recorder,
        training: TrainingLog,
        accumulated: AccumulatedGradients,
        masks: GradientMasks,
        passes: BackwardPasses,
        follow: Callable[[Iterable[Tensor]], None],
    ) -> None:
        self.stepped: dict[OptimizerKey, Optimizer] = {}
        """Identity → optimizer that has stepped: a wrapper rather than the optimizer inside."""
        self.marks: list[StepMark] = []
        """Marks of the start and of the end of every step."""
        self._recorder = recorder
        self._training = training
        self._accumulated = accumulated
        self._masks = masks
        self._passes = passes
        self._follow = follow
        """A function that follows the gradient of parameters."""
        self._running: list[tuple[RunningStep, FrameType | None]] = []
        """(step, frame of torch's wrapper around it), outermost first; it runs while its frame is on the stack.

        The steps of optimizers inside of another one's are parts of its step.
        """

    def before(self, optimizer: Optimizer, frame: FrameType | None, args: Any, kwargs: Any) -> Any:
        """Begin a step; return the arguments to call it with instead, or None."""
        recorder, key = self._recorder, OptimizerKey(id(optimizer))
        if self._running:
            running = self._running[-1][0]
            if key not in running.step.optimizers:
                running.step.optimizers += (key,)
        else:
            self._accumulated.look()
            self.stepped.setdefault(key, optimizer)
            event = recorder.tape.event(StepCalled, recorder.walk(frame).site, key)
            running = RunningStep(OpenStep(event.number, event.op, event.site, (key,)), self._accumulated.round)
        self._follow(p for g in optimizer.param_groups for p in g["params"] if isinstance(p, Tensor))
        running.hold(optimizer, recorder)
        self._running.append((running, frame))
        recorder.pause()
        may_climb = not type(optimizer).__module__.startswith(_TORCH_OPTIMIZERS)
        return self._with_closure(running, args, kwargs, may_climb=may_climb)

    def after(self) -> None:
        """End a step, and write it down once it is the outermost."""
        if not self._running:
            return
        running = self._leave()
        if self._running:
            return
        if not running.evaluations:
            self._accumulated.apply(running.parameters, running.step.content)
        self._note_moves(running)
        index = StepIndex(len(self._training.steps))
        step = running.step.finished(index, running.state_begun())
        self._training.steps.append(step)
        for backward in {b for c in step.content.values() for b in c.backwards}:
            self._training.backwards[backward].applied_by.add(index)
        self._recorder.tensors.rebase(p for p, _ in running.parameters.values())
        self.marks.append(mark(self._recorder))

    def drop_raised(self) -> None:
        """Drop steps that ended in an exception.

        torch calls its post hook only for steps that return.
        """
        while self._running and not _is_on_stack(self._running[-1][1]):
            self._leave()

    def drop_all(self) -> None:
        """Drop every step that has not returned."""
        while self._running:
            self._leave()

    def _leave(self) -> RunningStep:
        self._recorder.resume()
        return self._running.pop()[0]

    def _with_closure(self, running: RunningStep, args: Any, kwargs: Any, *, may_climb: bool) -> Any:
        """Return the arguments of a step with its closure recorded; None without a closure."""
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            return None
        passes, accumulated = self._passes, self._accumulated

        def evaluated(*arguments: Any, **named: Any) -> Any:
            running.evaluations += 1
            frozen = running.frozen_values()
            if may_climb:
                passes.climbed = running.round, running.moved_uphill()
            try:
                with self._recorder.resuming():
                    return closure(*arguments, **named)
            finally:
                passes.climbed = running.round, frozenset()
                running.ignore_closure(frozen)
                accumulated.look()
                accumulated.apply(running.parameters, running.step.content)

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    def _note_moves(self, running: RunningStep) -> None:
        """Add to the content of a step what it has changed."""
        content = running.step.content
        with without_torch_function(), torch.no_grad():
            for key, (parameter, _) in running.parameters.items():
                before = running.before.get(key)
                if before is not None and key in content and is_readable(parameter):
                    content[key] = self._moved(content[key], key, parameter, before)

    def _moved(self, content: Content, key: ParameterKey, parameter: Tensor, before: Tensor) -> Content:
        updates, lost = count_updates(parameter, before)
        masked = self._masks.on_step(key, parameter, before)
        spoilt = any(key in self._training.backwards[b].spoilt for b in content.backwards)
        return content._replace(
            moved=not same_values(parameter.detach(), before),
            moves_masked=masked.moved,
            lifts_mask=masked.lifted,
            masked_by_hook=masked.by_hook,
            masked_by_place=masked.by_place,
            updates=updates,
            lost_updates=lost,
            spoilt=spoilt and bool(before.isfinite().all()) and not bool(parameter.isfinite().all()),
        )


def _is_on_stack(frame: FrameType | None) -> bool:
    current: FrameType | None = sys._getframe(1)
    while current is not None:
        if current is frame:
            return True
        current = current.f_back
    return False
