"""Losses that were computed and never added, of parameters that the loss uses only as constants."""

from __future__ import annotations

from collections.abc import Container

from gradlint.flow.cut import Cut, CutKind
from gradlint.flow.dropped_terms import DroppedTerm, return_without
from gradlint.flow.facts import FlowFacts
from gradlint.flow.summands import summands
from gradlint.traces.dataflow import ancestors, indices, mask_of
from gradlint.traces.ids import NO_CALL, NO_SITE, SiteId, ValueId
from gradlint.traces.op_families import (
    DETACHED_VALUES,
    DIVIDE,
    JOINS,
    MULTIPLY,
    REDUCTIONS,
    RESHAPES,
    REVERSE_SUBTRACT,
    SAME_VALUES,
    SUBTRACT,
    TARGETED_LOSSES,
)
from gradlint.traces.ops import KIND_EXTRACT, Op
from gradlint.traces.trace import Parameter

_CONSTANT_USES = MULTIPLY | DIVIDE | SUBTRACT | REVERSE_SUBTRACT | TARGETED_LOSSES
"""Functions in which a constant is a target of what trains, or a factor."""
_DISTANCES = frozenset("pow square abs __pow__".split())
"""Functions that make an error of a difference."""
_PASSED_ON = REDUCTIONS | RESHAPES | SAME_VALUES | JOINS | MULTIPLY | DIVIDE
"""Functions by which the error of each element becomes a loss."""


def left_out_losses(flow: FlowFacts) -> list[DroppedTerm]:
    """Return the losses that nothing adds, with the parameters that they alone train.

    A loss is the error of a value against a target, or a sum that contains a term of the loss. It explains the missing
    gradient where each cut only makes a target, or a factor of what trains, and lies beside the way to that loss.
    """
    trace = flow.trace
    lost = mask_of(flow.starved) if trace.roots else 0
    found: dict[SiteId, DroppedTerm] = {}
    for number in range(len(trace.ops) - 1, trace.forward_start - 1, -1) if lost else ():
        op = trace.ops[number]
        if op.region >= 0 or op.site == NO_SITE or not op.outputs:
            continue
        value = op.outputs[0]
        mask = flow.masks.live.get(value, 0) & lost
        if not mask or trace.values[value].shape or value in flow.on_path or not _is_only_logged(flow, value):
            continue
        if not _is_loss(flow, value):
            continue
        explained = [p for p in flow.by_index(indices(mask)) if _only_constants(flow, p, value)]
        if not explained:
            continue
        lost &= ~mask_of(p.index for p in explained)
        cuts = tuple(c for c in flow.cuts if any(p in c.starved for p in explained))
        is_sum = any(part != value and part in flow.on_path for part in summands(flow, value))
        returned = return_without(flow, op.site) if is_sum else None
        found[op.site] = DroppedTerm(explained, op.site, returned, cuts=cuts)
    return list(found.values())[::-1]


def _is_only_logged(flow: FlowFacts, value: ValueId) -> bool:
    """Return True if a value is read only as a number or after a detach, as for a log."""
    readers = (flow.trace.ops[n] for n in flow.consumers.get(value, ()))
    return all(r.kind == KIND_EXTRACT or r.name in DETACHED_VALUES for r in readers)


def _is_loss(flow: FlowFacts, value: ValueId) -> bool:
    """Return True if a scalar is an error against a target, or a sum with a term of a loss."""
    parts = summands(flow, value)
    if len(parts) > 1:
        return any(part in flow.on_path or _is_error(flow, part) for part in parts)
    return _is_error(flow, value)


def _is_error(flow: FlowFacts, value: ValueId) -> bool:
    trace = flow.trace
    pending, seen = [value], {value}
    while pending:
        op = trace.made_by(pending.pop())
        if op is None:
            continue
        if op.name in TARGETED_LOSSES or (op.name in _DISTANCES and _is_difference(trace.made_by(op.inputs[0]))):
            return True
        if op.name in _PASSED_ON:
            inner = [v for v in op.inputs if flow.masks.live.get(v) and v not in seen]
            seen.update(inner)
            pending += inner
    return False


def _is_difference(op: Op | None) -> bool:
    return op is not None and op.name in SUBTRACT | REVERSE_SUBTRACT


def _only_constants(flow: FlowFacts, parameter: Parameter, left_out: ValueId) -> bool:
    """Return True if the loss uses a parameter only as a target or a factor."""
    cuts = [cut for cut in flow.cuts if parameter in cut.starved]
    return bool(cuts) and all(_is_constant_use(flow, cut, left_out) for cut in cuts)


def _is_constant_use(flow: FlowFacts, cut: Cut, left_out: ValueId) -> bool:
    trace = flow.trace
    before = ancestors(trace.ops[: cut.op + 1], trace.ops[cut.op].inputs)
    if left_out in before or cut.relabelled is not None or cut.zero:
        return False
    if not cut.outputs:  # a number: where it comes back is not recorded
        return cut.kind is CutKind.ROUNDTRIP and trace.ops[cut.op].call == NO_CALL
    pending, seen = list(cut.outputs), set(cut.outputs)
    meeting: list[ValueId] = []
    while pending:
        value = pending.pop()
        if value in trace.roots:
            return False
        for number in flow.consumers.get(value, ()):
            op = trace.ops[number]
            outputs = [o for o in op.outputs if o in flow.on_path and o not in seen]
            seen.update(outputs)
            if not any(trace.values[o].requires_grad for o in outputs):
                pending += outputs
            elif op.name in _CONSTANT_USES:
                meeting += outputs
            else:
                return False
    return not _feeds_a_layer(flow, meeting, seen)


def _feeds_a_layer(flow: FlowFacts, values: list[ValueId], before: Container[ValueId]) -> bool:
    """Return True if a parameter is read on the way from some values to the loss."""
    trace = flow.trace
    pending, seen = list(values), set(values)
    while pending:
        for number in flow.consumers.get(pending.pop(), ()):
            op = trace.ops[number]
            outputs = [o for o in op.outputs if o in flow.on_path and o not in seen]
            if outputs and any(v in trace.owners for v in op.inputs if v not in before):
                return True
            seen.update(outputs)
            pending += outputs
    return False
