"""Optimizers that train nothing because all that they contain is frozen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.traces.trace import Optimizer, Parameter, Trace


@dataclass(frozen=True)
class FrozenOptimizer:
    """An optimizer that can train nothing."""

    optimizer: Optimizer
    parameters: tuple[Parameter, ...]
    """The frozen parameters that it contains; all of the model if it is empty."""


def frozen_optimizers(trace: Trace) -> Iterator[FrozenOptimizer]:
    """Yield the optimizers all of whose tensors are frozen.

    None of them required grad, had a gradient or moved in any of their steps.
    Of recorded steps, only optimizers that stepped count: the turn of others may come later. So may the turn of an
    optimizer beside one that a loss alone trains (the critic of a generator).
    """
    training = trace.training
    recorded = training is not None and bool(training.backwards or training.steps)
    trained = {number for index in trace.reached for number, _ in trace.parameters[index].groups}
    for optimizer in trace.optimizers:
        keys = optimizer.keys
        steps = [s for s in training.steps if optimizer.key in s.optimizers] if training is not None else []
        contents = [s.content[key] for s in steps for key in keys if key in s.content]
        if not steps and (recorded or trained):
            continue
        if any(c.trainable or c.grad or c.moved for c in contents) or any(t.requires_grad for t in optimizer.foreign):
            continue
        held = trace.with_keys(keys) if keys else [p for p in trace.parameters if p.in_tree]
        if held and all(p.frozen_throughout for p in held):
            yield FrozenOptimizer(optimizer, tuple(held))
