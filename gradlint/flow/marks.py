"""The marks of values (`gradlint.constant`, `gradlint.differentiable`) that a recording contradicts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gradlint.flow.cut import Cut, place
from gradlint.flow.flow import Flow
from gradlint.location import Location
from gradlint.traces.dataflow import has_zero_gradient, indices, union, value_inputs
from gradlint.traces.events import Marked
from gradlint.traces.ids import SiteId, ValueId
from gradlint.traces.op_families import ZERO_GRADIENT_OF_SECOND
from gradlint.traces.ops import IN_FUNCTION, Op
from gradlint.traces.trace import Parameter, Trace


@dataclass(frozen=True)
class ContradictedMark:
    """A line that marks values, and the gradient that contradicts it."""

    site: SiteId
    constant: bool
    parameters: list[Parameter]
    """The trainable parameters that a constant value passes gradient to, or that a differentiable one depends on.

    Frozen ones if a differentiable value depends on frozen ones only.
    """
    cut: Cut | None = None
    """The place that ends the gradient of a differentiable value; None if it is computed from nothing that trains."""


def contradicted_marks(flow: Flow) -> Iterator[ContradictedMark]:
    """Yield the marks that the recording contradicts, one for each line.

    A line that marks a constant is contradicted by gradient in any pass. One that marks a differentiable value is
    contradicted if the loss depends on the value and gradient passes through it in no pass.
    """
    trace = flow.trace
    marks: dict[tuple[Location | None, bool], list[Marked]] = {}
    for event in trace.events_of(Marked):
        marks.setdefault((trace.location(event.site), event.constant), []).append(event)
    if not marks:
        return
    trained = _values_with_gradient(flow, trace.roots)
    asked = {value for op in trace.ops if op.name == "grad" for value in op.inputs}
    differentiated = _values_with_gradient(flow, (*trace.roots, *asked))
    for (_, constant), events in marks.items():
        if constant:
            mask = union(flow.masks.live, (v for e in events for v in _values_with_gradient_after(flow, e, trained)))
            if mask:
                yield ContradictedMark(events[0].site, True, _trainable(flow, mask))
        elif not any(_values_with_gradient_after(flow, e, differentiated) for e in events):
            marked = [(e, v) for e in events for v in e.values if v in flow.on_path]
            mask = union(flow.masks.data, (v for _, v in marked))
            parameters = _trainable(flow, mask) or flow.by_index(indices(mask))
            for event, value in marked[:1]:
                yield ContradictedMark(events[0].site, False, parameters, _ending_cut(flow, event, value))


def _trainable(flow: Flow, mask: int) -> list[Parameter]:
    return [p for p in flow.by_index(indices(mask)) if p.requires_grad]


def _values_with_gradient(flow: Flow, roots: Iterable[ValueId]) -> set[ValueId]:
    """Return the values through which gradient passes from any of some roots."""
    trace = flow.trace
    carrying = {root for root in roots if trace.values[root].requires_grad}
    for op in reversed(trace.ops):
        if not carrying.isdisjoint(op.outputs):
            carrying |= _inputs_with_gradient(trace, op)
    return carrying


def _inputs_with_gradient(trace: Trace, op: Op) -> set[ValueId]:
    """Return the inputs to which the backward of an op gives gradient."""
    if has_zero_gradient(op, trace.values):
        return set()
    read = value_inputs(op)
    return {
        value
        for position, value in enumerate(op.inputs)
        if trace.values[value].requires_grad and value in read and (op.func, position) not in trace.dropped
        if position == 0 or op.name not in ZERO_GRADIENT_OF_SECOND
    }


def _values_with_gradient_after(flow: Flow, event: Marked, carrying: set[ValueId]) -> list[ValueId]:
    """Return the marked values through which gradient passes by a use after the mark."""
    trace = flow.trace
    passing = []
    for value in event.values:
        if value not in carrying:
            continue
        readers = (trace.ops[number] for number in flow.consumers.get(value, ()) if number >= event.op)
        if value in trace.roots or any(not carrying.isdisjoint(op.outputs) or op.name == "grad" for op in readers):
            passing.append(value)
    return passing


def _ending_cut(flow: Flow, event: Marked, value: ValueId) -> Cut | None:
    """Return the first place before or after a marked value that ends its gradient."""
    trace = flow.trace
    if not trace.values[value].requires_grad:
        return next((cut for cut, _ in flow.first_cuts(value, flow.masks.data.get(value, 0))), None)
    reached = {value}
    for number, op in enumerate(trace.ops[event.op :], event.op):
        outputs = flow.on_path.intersection(op.outputs)
        if not outputs or reached.isdisjoint(op.inputs) or op.region == IN_FUNCTION:
            continue
        live = {o for o in outputs if trace.values[o].requires_grad}
        if not live or reached.isdisjoint(_inputs_with_gradient(trace, op)):
            return place(trace, number, min(outputs))
        reached |= live
    return None
