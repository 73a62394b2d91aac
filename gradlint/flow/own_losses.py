"""The losses that each optimizer is stepped for, where the recorded steps have several."""

from __future__ import annotations

from collections.abc import Iterable

from gradlint.traces.ids import BackwardIndex, OptimizerKey, ParameterIndex, ValueId
from gradlint.traces.trace import Parameter, Trace
from gradlint.traces.training import Backward, Training


def by_own_loss(
    trace: Trace, members: Iterable[ParameterIndex]
) -> list[tuple[tuple[ValueId, ...], list[ParameterIndex]]]:
    """Return parameters by the roots of the losses that their optimizers are stepped for.

    A generator whose samples the discriminator's loss detaches, on purpose, is not expected to get gradient from there.
    """
    training = trace.training
    if training is None or len(training.roots) < 2:
        return [(trace.roots, list(members))]
    own = {o.number: _passes_for(training, o.key) for o in trace.optimizers}
    given = tuple(v for v in trace.roots if v not in training.roots)
    groups: dict[tuple[ValueId, ...], list[ParameterIndex]] = {}
    for index in members:
        passes = set().union(*(own[number] for number, _ in trace.parameters[index].groups))
        roots = tuple(dict.fromkeys(v for n in sorted(passes) for v in training.backwards[n].roots))
        groups.setdefault((*given, *roots) if roots else trace.roots, []).append(index)
    return list(groups.items())


def own_passes(trace: Trace, parameter: Parameter) -> list[Backward]:
    """Return the recorded backward passes that the optimizers of a parameter are stepped for."""
    training = trace.training
    if training is None:
        return []
    optimizers = {trace.optimizers[number].key for number, _ in parameter.groups}
    return [training.backwards[n] for n in sorted(set().union(*(_passes_for(training, key) for key in optimizers)))]


def _passes_for(training: Training, optimizer: OptimizerKey) -> set[BackwardIndex]:
    """Return the backward passes that an optimizer is stepped for.

    They are those whose gradient its steps applied. Where it applied none, they are those right before its steps.
    """
    steps = [s for s in training.steps if optimizer in s.optimizers]
    applied = {s.number for s in steps}
    passes = {b.number for b in training.backwards if not applied.isdisjoint(b.applied_by)}
    if passes:
        return passes
    for step in steps:
        before = [b for b in training.backwards if b.event < step.event]
        if before:
            passes |= {b.number for b in before if not _step_between(training, b, before[-1])}
    return passes


def _step_between(training: Training, first: Backward, second: Backward) -> bool:
    return any(first.event < s.event < second.event for s in training.steps)
