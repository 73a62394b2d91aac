"""Python numbers in a loss that came out of a tensor with gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.flow.cut import place
from gradlint.flow.evidence import AddedNumber
from gradlint.flow.facts import FlowFacts
from gradlint.flow.loss_terms import ConstantTerm, is_judged, terms_of
from gradlint.flow.summands import Summand, added_number, parts_of
from gradlint.traces.dataflow import indices, mask_of
from gradlint.traces.ids import NO_VALUE, OpIndex, ValueId
from gradlint.traces.op_families import DETACHED_VALUES, NEW_LEAF, NUMBERS_OUT, REDUCTIONS, RESHAPES, SAME_VALUES
from gradlint.traces.ops import KIND_EXTRACT

_TRIED = 4
"""Numbers in a loss, and exits for each, that are looked into: each costs some runs."""


_DETACHED_ON_THE_WAY = DETACHED_VALUES | SAME_VALUES | RESHAPES | REDUCTIONS
"""Functions by which a value is detached before a number is taken out of it, and those that may follow."""


def added_numbers(flow: FlowFacts) -> Iterator[AddedNumber]:
    """Yield the Python numbers in the loss whose origin the recording does not show."""
    if _has_judged_terms(flow):
        for number, leaving in _suspects(flow, flow.trace.roots[0]):
            if not leaving and (question := _added_number(flow, number)) is not None:
                yield question


def _has_judged_terms(flow: FlowFacts) -> bool:
    """Return True if any loss has a live term, for which `_constant_in` examines the numbers."""
    trace = flow.trace
    return is_judged(flow) and any(terms_of(flow, root).live for root in trace.roots if not trace.values[root].shape)


def _suspects(flow: FlowFacts, root: ValueId) -> Iterator[tuple[OpIndex, list[OpIndex]]]:
    """Yield ops that add a Python number to a scalar, each with the ops by which it left torch."""
    trace, data = flow.trace, flow.masks.data
    suspects: list[OpIndex] = []
    pending = [Summand(root, 1.0)]
    while pending:
        term = pending.pop()
        parts = parts_of(trace, data, term, through_detach=False)
        producer = trace.values[term.value].producer
        if parts is not None and added_number(trace, trace.ops[producer]) is not None:
            suspects.append(producer)
        pending.extend(parts or ())
    for number in sorted(suspects)[:_TRIED]:
        came = {trace.values[v].producer for v in trace.ops[number].inputs}
        yield number, sorted(n for n in came if n >= 0 and trace.ops[n].kind == KIND_EXTRACT)


def _added_number(flow: FlowFacts, number: OpIndex) -> AddedNumber | None:
    """Return the question whether a number came out of a tensor.

    None if no tensor was read before.
    """
    exits = [(OpIndex(n), lost) for n in range(flow.trace.forward_start, number) if (lost := _taken_out(flow, n))]
    if not exits:
        return None
    taken = [(n, frozenset(indices(lost))) for n, lost in exits]
    return AddedNumber(
        number, tuple(taken[-_TRIED:][::-1]), frozenset().union(*(parameters for _, parameters in taken))
    )


def constant_numbers(flow: FlowFacts, root: ValueId) -> list[ConstantTerm]:
    """Return the terms of the loss that are Python numbers from ``.item()``."""
    trace = flow.trace
    constants = []
    for number, leaving in _suspects(flow, root):
        if not leaving:
            leaving = [by] if (by := flow.evidence.numbers.get(number)) is not None else []
        for n in leaving:
            if lost := _lost_at(flow, n):
                cut = place(trace, n, NO_VALUE, leaving=n)
                constants.append(ConstantTerm(flow.by_index(indices(lost)), [cut], trace.ops[number].site, 1))
    return constants


def _taken_out(flow: FlowFacts, number: int) -> int:
    """Return the parameters (a mask) cut by an op that takes a number out of torch.

    Zero if anything else is computed from the same tensor.
    """
    op = flow.trace.ops[number]
    if op.kind != KIND_EXTRACT or op.name not in NUMBERS_OUT or len(op.inputs) != 1:
        return 0
    return 0 if _with_gradient(flow, op.inputs[0]) in flow.on_path else _lost_at(flow, number)


def _lost_at(flow: FlowFacts, number: int) -> int:
    """Return the parameters whose gradient is lost at an op that takes a number out of torch."""
    taken = _with_gradient(flow, flow.trace.ops[number].inputs[0])
    if used_live(flow, taken):
        return 0
    return flow.masks.live.get(taken, 0) & mask_of(flow.judged & flow.reached)


def _with_gradient(flow: FlowFacts, value: ValueId) -> ValueId:
    """Return the value with a gradient from which one without was made.

    It was detached, then moved or reduced.
    """
    source = value
    while not flow.masks.live.get(source):
        op = flow.trace.made_by(source)
        if op is None or op.name not in _DETACHED_ON_THE_WAY or len(op.inputs) != 1 or op.inputs[0] == source:
            return value
        source = op.inputs[0]
    return source


def used_live(flow: FlowFacts, value: ValueId) -> bool:
    """Return True if a value with a gradient reaches the loss by another path than a detach."""
    if not flow.trace.values[value].requires_grad:
        return False
    for number in flow.consumers.get(value, ()):
        op = flow.trace.ops[number]
        if op.name not in NEW_LEAF and any(
            o in flow.on_path and flow.trace.values[o].requires_grad for o in op.outputs
        ):
            return True
    return False
