"""Run the step of a training setup under the recorder until every optimizer has stepped often enough."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import _global_optimizer_pre_hooks, register_optimizer_step_pre_hook

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.facts.autograd import own_gradients
from gradlint.recorder.hooks.executed import ExecutedCode
from gradlint.recorder.hooks.patching import register
from gradlint.recorder.ledger.enough import EnoughRecorded
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.recorder.user_code import gradlint_runs_user_code, user_errors
from gradlint.system.undo import Undo
from gradlint.traces.ids import OptimizerKey, ParameterKey

STEPS = 3
"""Number of recorded steps of each optimizer."""
_PATIENCE = 3
"""Factor by which one optimizer may step more often than the slowest one (a GAN's critic)."""
_ACCUMULATING = 32
"""Number of calls of the setup's step that may accumulate gradient before the first optimizer step."""
_SECONDS = 60.0
"""Seconds after which the setup's step is called no more, the first calls excepted."""


class StepQuota:
    """Returns True once every optimizer has stepped often enough, or one so often that the others never will."""

    def __init__(
        self, training: TrainingLog, optimizers: Callable[[], Sequence[Optimizer]], steps: int = STEPS
    ) -> None:
        self._training = training
        self._optimizers = optimizers
        self._steps = steps
        self._judged = (-1, False)

    def __call__(self) -> bool:
        steps = self._training.steps
        if self._judged[0] != len(steps):
            self._judged = (len(steps), self._judge())
        return self._judged[1]

    def _judge(self) -> bool:
        counts = [self._training.count_steps(OptimizerKey(id(o)), _keys(o)) for o in self._optimizers()]
        if not counts or not max(counts):
            return False
        return min(counts) >= self._steps or max(counts) >= self._steps * _PATIENCE


def _keys(optimizer: Optimizer) -> frozenset[ParameterKey]:
    return frozenset(ParameterKey(id(p)) for group in optimizer.param_groups for p in group["params"])


def run_steps(
    step: Callable[[], Any],
    recorder: Recorder,
    ledger: Ledger,
    optimizers: Callable[[], Sequence[Optimizer]],
    executed: ExecutedCode,
    steps: int = STEPS,
) -> None:
    """Call a setup's step until enough steps of its optimizers are recorded.

    Raises:
        TargetError: the step raised.
    """

    def goes_on(module: Any, outermost: bool) -> bool:
        ledger.stop_if_enough()
        return True

    training = ledger.training
    enough = StepQuota(training, optimizers, steps)
    ledger.stopping = enough
    began = time.monotonic()
    try:
        with recorder.filtering_module_calls(goes_on):
            while True:
                with recorder, executed.collecting(hot=True), user_errors("step()"):
                    gradlint_runs_user_code(step)
                training.calls += 1
                if enough() or not _goes_on(training, steps, time.monotonic() - began):
                    break
    except EnoughRecorded:
        training.calls += 1
    finally:
        ledger.stopping = lambda: False


def losses_of_round(
    undo: Undo, step: Callable[[], Any], optimizers: Sequence[Optimizer], parameters: Collection[Tensor]
) -> list[Tensor]:
    """Run a setup's step without updates; return the roots of its backward passes.

    The roots keep their history. The run ends once each optimizer was to step, or one of them twice. All gradients are
    put back.
    """
    losses: list[Tensor] = []
    with undo.part() as part, own_gradients(parameters):
        part.replace(torch.autograd, "backward", _collecting_losses(losses))
        round_of_steps = _Round(optimizers)
        register(part, _global_optimizer_pre_hooks, register_optimizer_step_pre_hook, round_of_steps.end)
        for optimizer in optimizers:
            part.replace(optimizer, "step", functools.partial(round_of_steps.skip, optimizer))
        with contextlib.suppress(EnoughRecorded):
            gradlint_runs_user_code(step)
    return losses


class _Round:
    """A replacement for the steps of optimizers until each was to step once, or one of them twice."""

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._waiting = {id(optimizer) for optimizer in optimizers}

    def skip(self, optimizer: Optimizer, closure: Callable[[], Any] | None = None, *args: Any, **named: Any) -> Any:
        """Evaluate the closure of a step, and update nothing.

        Raises:
            EnoughRecorded: the round is over.
        """
        again = id(optimizer) not in self._waiting
        result = closure() if closure is not None and not again else None
        self._waiting.discard(id(optimizer))
        if again or not self._waiting:
            raise EnoughRecorded
        return result

    def end(self, *arguments: Any) -> None:
        """End the round before an optimizer steps that is not known.

        Raises:
            EnoughRecorded: in every case.
        """
        raise EnoughRecorded


def _collecting_losses(losses: list[Tensor]) -> Callable[..., Any]:
    """Return a backward pass that collects its roots, and keeps their graphs."""
    original: Callable[..., Any] = torch.autograd.backward

    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        losses.extend(root for root in tensors_in(tensors) if root.requires_grad)
        before, after = args[:1], args[2:]
        kwargs.pop("retain_graph", None)
        if len(args) > 1:
            return original(tensors, *before, True, *after, **kwargs)
        return original(tensors, *before, retain_graph=True, **kwargs)

    return backward


def _goes_on(training: TrainingLog, steps: int, seconds: float) -> bool:
    if training.calls < steps:
        return True
    if seconds > _SECONDS or not training.backwards:
        return False
    if not training.steps and not training.attempts and not training.clears:
        return training.calls < _ACCUMULATING
    return training.calls < steps * _PATIENCE
