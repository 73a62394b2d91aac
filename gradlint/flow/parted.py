"""Optimizers that contain none of the model's parameters, but others in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradlint.flow.facts import FlowFacts
from gradlint.traces.ids import NO_SITE, ParameterKey, SiteId
from gradlint.traces.trace import ForeignTensor, Optimizer, Parameter, Trace


@dataclass(frozen=True)
class PartedOptimizer:
    """An optimizer that steps tensors which are no parameters of the model, and no op reads."""

    optimizer: Optimizer
    parameters: tuple[Parameter, ...]
    """The parameters that get gradient and no optimizer contains; only those of the shapes of its tensors, if each has
    one."""
    optimizer_copied: SiteId = NO_SITE
    """Site of the deepcopy that took its tensors from the model's; NO_SITE if there is none."""
    model_copied: SiteId = NO_SITE
    """Site of the deepcopy that took the model's parameters from its tensors; NO_SITE if there is none."""


def parted_optimizers(flow: FlowFacts) -> Iterator[PartedOptimizer]:
    """Yield the optimizers whose tensors nothing reads, where others lack an optimizer.

    The others are parameters that get gradient. Without recorded steps, each tensor must have the shape of one of them.
    """
    trace = flow.trace
    lost = [
        p
        for p in trace.parameters
        if p.in_tree and p.requires_grad and not p.groups and not p.written and p.index in flow.reached
    ]
    if not lost:
        return
    for optimizer in trace.optimizers:
        if not optimizer.foreign or not optimizer.holds_parameters_only or any(t.is_read for t in optimizer.foreign):
            continue
        if any(key in trace.by_key for key in optimizer.keys):
            continue
        stepped = _steps_without_gradient(trace, optimizer)
        twins = _twins(optimizer.foreign, lost)
        if stepped is False or (not twins and not stepped):
            continue
        copied = _parted(trace, optimizer.foreign[0].key, twins[0].key) if twins else (NO_SITE, NO_SITE)
        yield PartedOptimizer(optimizer, tuple(twins or lost), *copied)


def _steps_without_gradient(trace: Trace, optimizer: Optimizer) -> bool | None:
    """Return True if an optimizer stepped, always without gradient; None without steps."""
    training = trace.training
    if training is None or not training.backwards:
        return None
    steps = [s for s in training.steps if optimizer.key in s.optimizers]
    contents = [s.content[key] for s in steps for key in optimizer.keys if key in s.content]
    return bool(steps) and not any(c.grad or c.moved for c in contents)


def _twins(tensors: Iterable[ForeignTensor], parameters: Iterable[Parameter]) -> list[Parameter]:
    """Return for each tensor a parameter of its shape and type, in order; empty if one has none."""
    waiting: dict[tuple[tuple[int, ...], str], list[Parameter]] = {}
    for parameter in parameters:
        waiting.setdefault((parameter.shape, parameter.dtype), []).append(parameter)
    twins = []
    for tensor in tensors:
        alike = waiting.get((tensor.shape, tensor.dtype))
        if not alike:
            return []
        twins.append(alike.pop(0))
    return twins


def _parted(trace: Trace, foreign: ParameterKey, own: ParameterKey) -> tuple[SiteId, SiteId]:
    """Return the sites at which two tensors were copied from the last one that both come from."""
    ones, others = list(_lineage(trace, foreign)), list(_lineage(trace, own))
    before = dict(others)
    for key, site in ones:
        if key in before:
            return site, before[key]
    return NO_SITE, NO_SITE


def _lineage(trace: Trace, key: ParameterKey) -> Iterator[tuple[ParameterKey, SiteId]]:
    """Yield a tensor and those that it was copied from, each with the site of its copy."""
    passed = NO_SITE
    while True:
        yield key, passed
        copy = trace.copies.get(key)
        if copy is None:
            return
        key, passed = copy
