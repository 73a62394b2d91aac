"""Terms of the loss whose gradient cancels, because the same value is added and subtracted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gradlint.flow.facts import FlowFacts
from gradlint.flow.loss_terms import scalar_terms
from gradlint.traces.dataflow import ancestors, indices, mask_of, propagate
from gradlint.traces.ids import OpIndex, SiteId, ValueId
from gradlint.traces.op_families import NEGATE, RESHAPES, REVERSE_SUBTRACT, SAME_VALUES, SUBTRACT, SUMS
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter, Trace

_EXPANDED = 64
"""Number of sums that a difference is expanded through."""


@dataclass(frozen=True)
class CancelledTerm:
    """A term of the loss whose gradient cancels before it reaches any parameter."""

    loss: int
    """Position of the loss that it belongs to, among those of the recorded steps."""
    difference: Op
    """The first difference without gradient on the way to it."""
    site: SiteId
    """Site where the term is computed."""
    parameters: list[Parameter]
    """The trained parameters that it depends on."""


def find_cancelled_terms(flow: FlowFacts) -> Iterator[CancelledTerm]:
    """Yield the terms of the loss whose only gradient passes differences in which it cancels."""
    trace = flow.trace
    judged = mask_of(flow.judged & flow.reached)
    flat = [
        number
        for number in map(OpIndex, range(trace.forward_start, len(trace.ops)))
        if any(flow.masks.data.get(v, 0) & judged for v in _left_by_cancelling(trace, trace.ops[number]))
    ]
    if not flat:
        return
    ops = list(trace.ops)
    for number in flat:
        ops[number] = ops[number]._replace(outputs=())
    live = propagate(ops, trace.values, trace.owners, trace.forward_start, trace.dropped).live
    for position, (terms, _) in enumerate(scalar_terms(flow)):
        for term in terms:
            mask = flow.masks.live.get(term.value, 0)
            if term.factor == 0 or not mask & judged or live.get(term.value, 0) & mask:
                continue
            before = ancestors(trace.ops, [term.value])
            first = next(trace.ops[n] for n in flat if not before.isdisjoint(trace.ops[n].outputs))
            computed = trace.ops[trace.values[term.value].producer].site
            yield CancelledTerm(position, first, computed, flow.by_index(indices(mask & judged)))


def _left_by_cancelling(trace: Trace, op: Op) -> list[ValueId]:
    """Return the values without gradient that remain of a difference in which gradients cancel.

    Empty if any gradient is left. Of a sample minus its own mean, noise remains: nothing is lost.
    """
    if op.name not in SUBTRACT | REVERSE_SUBTRACT or len(op.outputs) != 1:
        return []
    if sum(trace.values[v].requires_grad for v in op.inputs) < 2:  # nothing to cancel
        return []
    factors: dict[ValueId, float] = {}
    left: list[ValueId] = []
    pending = [(op.outputs[0], 1.0)]
    expanded = 0
    while pending:
        value, factor = pending.pop()
        if not trace.values[value].requires_grad:
            left.append(value)
            continue
        parts = _summands(trace, value) if expanded < _EXPANDED else None
        if parts is None:
            factors[value] = factors.get(value, 0.0) + factor
        else:
            expanded += 1
            pending += [(part, factor * sign) for part, sign in parts]
    return left if factors and not any(factors.values()) else []


def _summands(trace: Trace, value: ValueId) -> Sequence[tuple[ValueId, float]] | None:
    """Return the values whose sum a value is, element by element, each with its sign.

    None if no sum or copy computes it.
    """
    producer = trace.values[value].producer
    if producer < trace.forward_start:
        return None
    op = trace.ops[producer]
    if len(op.inputs) == 1 and op.name in NEGATE:
        return [(op.inputs[0], -1.0)]
    if len(op.inputs) == 1 and op.name in SAME_VALUES | RESHAPES:
        is_whole = math.prod(trace.values[op.inputs[0]].shape) == math.prod(trace.values[value].shape)
        return [(op.inputs[0], 1.0)] if is_whole else None
    if op.name not in SUMS or op.argument(2, "alpha", 1) != 1:
        return None
    operands = (op.tensor(0, "input"), op.tensor(1, "other"))
    signs = (-1.0, 1.0) if op.name in REVERSE_SUBTRACT else (1.0, -1.0 if op.name in SUBTRACT else 1.0)
    parts = [(v, s) for v, s in zip(operands, signs, strict=True) if v is not None]
    shape = trace.values[value].shape
    return parts if all(trace.values[v].shape == shape for v, _ in parts) else None
