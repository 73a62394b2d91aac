"""One optimizer step while it runs, and what its closure changes."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.ledger import optimizer_state
from gradlint.recorder.ledger.learning_rates import as_number
from gradlint.recorder.ledger.training_log import OpenStep
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_readable, same_values
from gradlint.traces.ids import OptimizerKey, ParameterKey

_CLIMBING_ENTRIES = 16
"""Number of entries moved in the direction of their gradient that is no accident."""


class RunningStep:
    """A step that has not returned, and its parameters as they were before it."""

    def __init__(self, step: OpenStep, round_: int) -> None:
        self.step = step
        self.round = round_
        """Round of the accumulated gradients in which the step began."""
        self.parameters: dict[ParameterKey, tuple[Tensor, float | None]] = {}
        """Identity → (parameter, its learning rate)."""
        self.before: dict[ParameterKey, Tensor] = {}
        """Identity of a parameter → copy of its value before the step."""
        self.evaluations = 0
        """Number of times the closure has run."""
        self._stateless: dict[OptimizerKey, Optimizer] = {}
        """Optimizers that took part and had no state before."""

    def hold(self, optimizer: Optimizer, recorder: Recorder) -> None:
        """Note the parameters of an optimizer that takes part."""
        if optimizer_state.is_empty(optimizer):
            self._stateless[OptimizerKey(id(optimizer))] = optimizer
        with without_torch_function(), torch.no_grad():
            for group in optimizer.param_groups:
                lr = as_number(group.get("lr"))
                for p in group["params"]:
                    key = ParameterKey(id(p))
                    if key in self.parameters or not isinstance(p, Tensor):
                        continue
                    self.parameters[key] = (p, lr)
                    recorder.announce_write(p)
                    if p.layout == torch.strided and is_readable(p):
                        self.before[key] = p.detach().clone()

    def state_begun(self) -> frozenset[OptimizerKey]:
        """Return the optimizers that remember this step as their first.

        A step that evaluates its closure again and again is many in one: its state lasts between them.
        """
        stateless = self._stateless if self.evaluations <= 1 else {}
        return frozenset(key for key, optimizer in stateless.items() if optimizer_state.is_kept(optimizer))

    def frozen_values(self) -> dict[ParameterKey, Tensor]:
        """Return copies of the frozen parameters, as they are now."""
        with without_torch_function(), torch.no_grad():
            held = ((key, p) for key, (p, _) in self.parameters.items() if key in self.before)
            return {key: p.detach().clone() for key, p in held if not p.requires_grad and is_readable(p)}

    def ignore_closure(self, frozen: Mapping[ParameterKey, Tensor]) -> None:
        """Count what the closure wrote into frozen parameters as no change by their optimizer.

        `frozen` holds their values when the closure began; those that the optimizer had moved by then keep the older
        ones.
        """
        with without_torch_function(), torch.no_grad():
            for key, start in frozen.items():
                now = self.parameters[key][0].detach()
                if is_readable(now) and not same_values(now, start) and same_values(start, self.before[key]):
                    self.before[key] = now.clone()

    def moved_uphill(self) -> frozenset[ParameterKey]:
        """Return the parameters that the step has moved along their gradient, in each entry moved."""
        climbed: set[ParameterKey] = set()
        entries = 0
        with without_torch_function(), torch.no_grad():
            for key, (p, _) in self.parameters.items():
                before, gradient = self.before.get(key), p.grad
                if before is None or gradient is None or not is_readable(p) or not is_readable(gradient):
                    continue
                if not before.shape == p.shape == gradient.shape or gradient.layout != torch.strided:
                    continue
                move = (p.detach() - before).sign()
                moved = move != 0
                count = int(moved.sum())
                if count and bool((move == gradient.sign())[moved].all()):
                    climbed.add(key)
                    entries += count
        return frozenset(climbed) if entries >= _CLIMBING_ENTRIES else frozenset()
