"""Gradient of one loss in the parameters of another: the backward pass that left it, and the call it came through."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradlint.flow.flow import Flow
from gradlint.traces.dataflow import ancestors, mask_of, union
from gradlint.traces.events import ZeroGradCalled
from gradlint.traces.ids import NO_SITE, BackwardIndex, CallIndex, OptimizerIndex, ParameterIndex, ParameterKey, SiteId
from gradlint.traces.trace import Module, Optimizer, Parameter, Trace
from gradlint.traces.training import Backward, Step, Training


class CrossLossKind(enum.Enum):
    """The fate of gradient that a loss accumulated in parameters of another optimizer."""

    APPLIED = enum.auto()
    """Their own optimizer stepped with it."""
    PASSED = enum.auto()
    """Their own optimizer stepped with what a loss left in them on its way to another network."""
    JOINED = enum.auto()
    """One step applied the gradient of both losses, which may be intended."""
    WASTED = enum.auto()
    """It was cleared before any step applied it."""


@dataclass
class CrossLossGradient:
    """Gradient that a loss accumulated in parameters of another optimizer."""

    kind: CrossLossKind
    backward: Backward
    """The pass that accumulated it."""
    optimizer: Optimizer
    """The optimizer of these parameters."""
    owner: Optimizer
    """The optimizer that the pass was run for."""
    parameters: list[Parameter]
    entry: SiteId
    """Site where a value that depends on one network is passed to the other; for PASSED, of the backward pass."""
    step: Step | None
    """The step that applied it."""


def find_cross_loss_gradients(flow: Flow) -> list[CrossLossGradient]:
    """Return the cross-loss gradients of the recorded steps, one for each place."""
    training = flow.trace.training
    if training is None or len(flow.trace.optimizers) < 2:
        return []
    first: dict[tuple[CrossLossKind, SiteId, OptimizerIndex], CrossLossGradient] = {}
    for foreign in (*_applied(flow, training), *_joined(flow, training), *_wasted(flow, training)):
        merged = first.setdefault((foreign.kind, foreign.entry, foreign.optimizer.number), foreign)
        merged.parameters.extend(p for p in foreign.parameters if p not in merged.parameters)
    applied = {
        (foreign.entry, foreign.optimizer.number) for foreign in first.values() if foreign.kind is CrossLossKind.APPLIED
    }
    return [
        foreign
        for foreign in first.values()
        if foreign.kind is CrossLossKind.APPLIED or (foreign.entry, foreign.optimizer.number) not in applied
    ]


def _applied(flow: Flow, training: Training) -> Iterator[CrossLossGradient]:
    """Yield gradients where a step applied gradient that another optimizer already applied."""
    trace = flow.trace
    for step in training.steps:
        optimizer = _row(trace, step)
        if optimizer is None:
            continue
        own = optimizer.keys
        by_pass: dict[BackwardIndex, list[Parameter]] = {}
        for key, content in step.content.items():
            if len(content.backwards) > 1 and key in trace.by_key:
                last = training.backwards[content.backwards[-1]]
                for number in content.backwards[:-1]:
                    if _served_another(training, number, last, step, own) and _alone(training, last, own):
                        by_pass.setdefault(number, []).append(trace.by_key[key])
        for number, parameters in by_pass.items():
            backward = training.backwards[number]
            owner = _owner(trace, training, backward, own)
            last = training.backwards[max(max(c.backwards, default=-1) for c in step.content.values())]
            if owner is None or not _depends(flow, last, owner.keys):
                continue
            entry = entry_site(flow, backward, owner.keys, own)
            if entry != NO_SITE:
                yield CrossLossGradient(CrossLossKind.APPLIED, backward, optimizer, owner, parameters, entry, step)
            elif not _ever_stale(training, own) and entry_site(flow, backward, own, owner.keys) != NO_SITE:
                at = backward.site
                yield CrossLossGradient(CrossLossKind.PASSED, backward, optimizer, owner, parameters, at, step)


def _ever_stale(training: Training, keys: frozenset[ParameterKey]) -> bool:
    """Return True if a step of some parameters applies gradient for a second time."""
    return any(c.stale for step in training.steps for key, c in step.content.items() if key in keys)


def _served_another(
    training: Training, number: BackwardIndex, last: Backward, step: Step, own: frozenset[ParameterKey]
) -> bool:
    return any(
        training.steps[s].event < last.event and own.isdisjoint(training.steps[s].content)
        for s in training.backwards[number].applied_by
        if s != step.number
    )


def _alone(training: Training, backward: Backward, own: frozenset[ParameterKey]) -> bool:
    """Return True if only steps of one optimizer applied a backward pass."""
    return all(not own.isdisjoint(training.steps[s].content) for s in backward.applied_by)


def _joined(flow: Flow, training: Training) -> Iterator[CrossLossGradient]:
    """Yield gradients where a loss for another optimizer added gradient before the step."""
    trace = flow.trace
    for step in training.steps:
        optimizer = _row(trace, step)
        if optimizer is None:
            continue
        own = optimizer.keys
        doubled = {
            c.backwards for key, c in step.content.items() if len(c.backwards) == 2 and not c.stale and key in own
        }
        if len(doubled) != 1:
            continue
        first, second = (training.backwards[b] for b in doubled.pop())
        if any(training.steps[s].event < second.event for s in first.applied_by):
            continue
        for other in trace.optimizers:
            other_keys = other.keys
            if other is optimizer or not own.isdisjoint(other_keys) or not other_keys.isdisjoint(first.deposits):
                continue
            if other_keys.isdisjoint(second.deposits) or not _cleared_between(trace, first, second, other_keys):
                continue
            entry = entry_site(flow, second, own, other_keys)
            if entry != NO_SITE:
                parameters = [trace.by_key[k] for k in own if k in second.deposits and k in trace.by_key]
                yield CrossLossGradient(CrossLossKind.JOINED, second, optimizer, other, parameters, entry, step)


def _cleared_between(trace: Trace, first: Backward, second: Backward, keys: frozenset[ParameterKey]) -> bool:
    return any(
        isinstance(e, ZeroGradCalled) and not keys.isdisjoint(e.parameters)
        for e in trace.events[first.event + 1 : second.event]
    )


def _wasted(flow: Flow, training: Training) -> Iterator[CrossLossGradient]:
    """Yield gradients that were cleared before the parameters' optimizer applied it."""
    trace = flow.trace
    for clear in training.clears:
        for optimizer in trace.optimizers:
            own = optimizer.keys
            lost: dict[BackwardIndex, list[Parameter]] = {}
            for key, numbers in clear.discarded.items():
                if key in own and key in trace.by_key:
                    for number in numbers:
                        lost.setdefault(number, []).append(trace.by_key[key])
            for number, parameters in lost.items():
                backward = training.backwards[number]
                if any(not own.isdisjoint(training.steps[s].content) for s in backward.applied_by):
                    continue
                owner = _owner(trace, training, backward, own)
                if owner is None or entry_site(flow, backward, own, owner.keys) != NO_SITE:
                    continue  # on its way to the others, gradient has to pass these
                entry = entry_site(flow, backward, owner.keys, own)
                if entry != NO_SITE:
                    yield CrossLossGradient(CrossLossKind.WASTED, backward, optimizer, owner, parameters, entry, None)


def entry_site(flow: Flow, backward: Backward, into: frozenset[ParameterKey], of: frozenset[ParameterKey]) -> SiteId:
    """Return the site where a value from the parameters `of` first enters the network of `into`.

    Only values on the path to the roots of the backward pass count. NO_SITE if there is none.
    """
    trace = flow.trace
    before = trace.ops[: backward.op]
    path = ancestors(before, backward.roots)
    inside = {p.index for p in trace.with_keys(into)}
    wanted = mask_of(p.index for p in trace.with_keys(of))
    for op in before[trace.forward_start :]:
        if not path.intersection(op.outputs) or not any(trace.owners.get(v, -1) in inside for v in op.inputs):
            continue
        if any(flow.masks.live.get(v, 0) & wanted for v in op.inputs):
            return _call_site(trace, op.call, op.site, inside)
    return NO_SITE


def _call_site(trace: Trace, call: CallIndex, site: SiteId, inside: set[ParameterIndex]) -> SiteId:
    """Return the site of the outermost module call whose parameters are all in `inside`."""
    for number in trace.calls_around(call):
        module = trace.modules[trace.calls[number].module]
        if not {p.index for p in _below(trace, module)} <= inside:
            break
        site = trace.calls[number].site
    return site


def _below(trace: Trace, module: Module) -> Iterable[Parameter]:
    return trace.below(module) if module.in_tree else ()


def _depends(flow: Flow, backward: Backward, keys: frozenset[ParameterKey]) -> bool:
    """Return True if the roots of a backward pass depend on any of the parameters."""
    return bool(union(flow.masks.data, backward.roots) & mask_of(p.index for p in flow.trace.with_keys(keys)))


def _owner(trace: Trace, training: Training, backward: Backward, own: frozenset[ParameterKey]) -> Optimizer | None:
    """Return the optimizer, other than that of `own`, that first applied a backward pass."""
    for number in sorted(backward.applied_by):
        row = _row(trace, training.steps[number])
        if row is not None and own.isdisjoint(row.keys):
            return row
    return None


def _row(trace: Trace, step: Step) -> Optimizer | None:
    return next((o for o in trace.optimizers if o.key in step.optimizers), None)
