"""The terms of a scalar loss, and those that train nothing."""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradlint.flow.cut import Cut, place
from gradlint.flow.evidence import AddedNumber
from gradlint.flow.facts import FlowFacts
from gradlint.flow.origin import computed_value
from gradlint.traces.dataflow import indices, mask_of, union
from gradlint.traces.ids import NO_VALUE, CallIndex, OpIndex, SiteId, ValueId
from gradlint.traces.op_families import (
    DETACHED_VALUES,
    DIVIDE,
    MULTIPLY,
    NEGATE,
    NEW_LEAF,
    NUMBERS_OUT,
    REDUCTIONS,
    RESHAPES,
    REVERSE_SUBTRACT,
    SAME_VALUES,
    SCALAR_KEEPING,
    SUBTRACT,
    SUMS,
    TARGETED_LOSSES,
)
from gradlint.traces.ops import KIND_EXTRACT, TENSOR, Op
from gradlint.traces.sites import Frame
from gradlint.traces.trace import Parameter, Trace

_TRIED = 4
"""Numbers in a loss, and exits for each, that are looked into: each costs some runs."""


_DETACHED_ON_THE_WAY = DETACHED_VALUES | SAME_VALUES | RESHAPES | REDUCTIONS
"""Functions by which a value is detached before a number is taken out of it, and those that may follow."""


@dataclass(frozen=True)
class Summand:
    """One summand of a scalar, or of the elements whose sum or mean a scalar is."""

    value: ValueId
    factor: float | None
    """Its constant factor, apart from tensors and from the share in a mean; None if unknown."""
    weights: tuple[ValueId, ...] = ()
    """The tensors among its constant factors, whose values are not recorded."""
    reduced_in: CallIndex | None = None
    """The module call in which the elements are reduced; None for a scalar."""

    def of(self, value: ValueId, times: float | None = 1.0) -> Summand:
        """Return the summand that another value is in its place, with a further factor."""
        return replace(self, value=value, factor=_times(self.factor, times))


def _taken_apart(
    trace: Trace, data: Mapping[ValueId, int], whole: Summand, through_detach: bool, elementwise: bool
) -> tuple[list[Summand], set[OpIndex]]:
    """Take a summand apart through sums, differences and constant factors.

    Args:
        trace: the recording.
        data: value → parameters it depends on; a factor that depends on any is no constant.
        whole: the summand.
        through_detach: whether to look behind a detach.
        elementwise: whether to look below a sum or mean of elements, as far as it is written in the same forward.

    Returns:
        The terms, and the ops through which it was taken apart.
    """
    result: list[Summand] = []
    through: set[OpIndex] = set()
    pending = [whole]
    while pending:
        term = pending.pop()
        parts = _parts(trace, data, term, through_detach, elementwise)
        if parts is None:
            result.append(term)
        else:
            through.add(trace.values[term.value].producer)
            pending.extend(reversed(parts))
    return result, through


def _parts(
    trace: Trace, data: Mapping[ValueId, int], term: Summand, through_detach: bool, elementwise: bool = False
) -> list[Summand] | None:
    """Return the terms that a term is the sum of; None if it is one by itself."""
    entry = trace.values[term.value]
    if entry.producer < trace.forward_start:
        return None
    op = trace.ops[entry.producer]
    name = op.name
    if name in REDUCTIONS and not entry.shape and (parts := _stacked(trace, data, op)) is not None:
        share = 1.0 if name == "sum" else 1.0 / len(parts)
        return [term.of(t.value, _times(share, t.factor)) for t in parts]
    if entry.shape or any(trace.values[v].shape for v in op.inputs):
        if not elementwise:
            return None
        if name in REDUCTIONS and not entry.shape and len(op.inputs) == 1:
            return [replace(term.of(op.inputs[0]), reduced_in=op.call)]
        if term.reduced_in != op.call:
            return None
    keeps = SCALAR_KEEPING if term.reduced_in is None else SCALAR_KEEPING | RESHAPES
    if len(op.inputs) == 1 and (name in keeps or (through_detach and name in DETACHED_VALUES)):
        return [term.of(op.inputs[0])]
    if name in NEGATE:
        return [term.of(op.inputs[0], -1.0)]
    if name in SUMS:
        alpha = op.argument(2, "alpha", 1)
        scale = float(alpha) if isinstance(alpha, (int, float)) else None
        signs: tuple[float | None, float | None] = (1.0, scale)
        if name in SUBTRACT:
            signs = (1.0, _times(scale, -1.0))
        elif name in REVERSE_SUBTRACT:
            signs = (_times(scale, -1.0), 1.0)
        operands = (op.tensor(0, "input"), op.tensor(1, "other"))
        return [term.of(v, s) for v, s in zip(operands, signs, strict=True) if v is not None]
    if name in MULTIPLY or name in DIVIDE:
        return _scaled(data, term, op)
    source, _ = computed_value(trace, term.value)
    return [term.of(source)] if source != term.value and not trace.values[source].shape else None


def _stacked(trace: Trace, data: Mapping[ValueId, int], op: Op) -> list[Summand] | None:
    """Return the scalars that were stacked into a vector, then weighted by constants and summed."""
    weighted = False
    value = op.tensor(0, "input")
    while value is not None and len(trace.values[value].shape) == 1:
        producer = trace.values[value].producer
        stack = trace.ops[producer] if producer >= trace.forward_start else None
        if stack is None:
            return None
        if stack.name == "stack" or (stack.name in ("cat", "hstack") and _single(trace, stack)):
            return [Summand(v, None if weighted else 1.0) for v in stack.inputs]
        if stack.name not in MULTIPLY or len(stack.inputs) > 2:
            return None
        rest = [v for v in stack.inputs if data.get(v)]
        if len(rest) != 1 or trace.values[rest[0]].shape != trace.values[value].shape:
            return None
        weighted, value = True, rest[0]
    return None


def _single(trace: Trace, op: Op) -> bool:
    return all(trace.values[v].shape == (1,) for v in op.inputs)


def _scaled(data: Mapping[ValueId, int], term: Summand, op: Op) -> list[Summand] | None:
    """Return the one operand of a product that is not constant, with the other as its factor."""
    operands = [(op.tensor(0, "input"), op.argument(0, "input")), (op.tensor(1, "other"), op.argument(1, "other"))]
    if op.name in DIVIDE and op.argument(2, "rounding_mode") is not None:
        return None
    for (value, _), (other, number) in (operands, operands[::-1]):
        if value is None or (other is not None and data.get(other)):
            continue
        if op.name in DIVIDE and value != operands[0][0]:
            return None
        if other is None and number is not TENSOR:
            if not isinstance(number, (int, float)):
                return None
            factor = (1 / number if number else None) if op.name in DIVIDE else float(number)
            return [term.of(value, factor)]
        return [replace(term.of(value), weights=(*term.weights, *(() if other is None else (other,))))]
    return None


def added_number(trace: Trace, op: Op) -> float | None:
    """Return the Python number that an op adds to a scalar; None if it does anything else."""
    if op.name not in SUMS or len(op.outputs) != 1 or trace.values[op.outputs[0]].shape:
        return None
    return first_number(op.args, op.kwargs)


def first_number(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> float | None:
    """Return the first Python float among the operands of a sum."""
    numbers = [*args, *((kwargs or {}).get(name) for name in ("other", "input"))]
    return next((float(a) for a in numbers[:2] if isinstance(a, float)), None)


def _times(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first * second


@dataclass(frozen=True)
class ConstantTerm:
    """Terms of the loss that depend on trainable parameters and carry no gradient, for one cause."""

    parameters: list[Parameter]
    cuts: list[Cut]
    """The cuts of their gradient, in the order of execution."""
    site: SiteId
    """Site where the first of them is computed."""
    count: int
    relabelled: int | None = None
    """Number of the op that made it require grad again."""
    starves: bool = False
    """True if a cut of it also leaves other parameters without any gradient."""
    weighted: bool = False
    """True if a constant factor weighs it that weighs no term with gradient."""


def constant_terms(flow: FlowFacts) -> list[ConstantTerm]:
    """Return the terms of the loss that depend on trained parameters and train nothing.

    Empty if a detached part subtracts what a live one adds. On purpose, such a sum has the value of one and the
    gradient of the other.
    """
    trace = flow.trace
    if not _is_judged(flow):
        return []
    by_cut: dict[tuple[object, ...], ConstantTerm] = {}
    for root in trace.roots:
        if not trace.values[root].shape:
            for term in _constant_in(flow, root):
                # each recorded step has its own loss, and the same cause in it
                by_cut.setdefault((term.cuts[0].location, term.relabelled, term.starves), term)
    return list(by_cut.values())


def _is_judged(flow: FlowFacts) -> bool:
    """Return True if the terms of the loss are judged at all."""
    trace = flow.trace
    return trace.loss_given and (len(trace.roots) == 1 or trace.training is not None)


@dataclass(frozen=True)
class _Terms:
    """The terms of one loss."""

    all: list[Summand]
    live: list[Summand]
    """Those with gradient."""
    fresh: dict[ValueId, OpIndex]
    """Value of a relabelled leaf → the op that relabelled it."""
    through: set[OpIndex]
    """The ops through which the loss was taken apart."""


def _terms_of(flow: FlowFacts, root: ValueId) -> _Terms:
    trace = flow.trace
    parts, through = _taken_apart(trace, flow.masks.data, Summand(root, 1.0), through_detach=False, elementwise=True)
    producers = {t.value: trace.values[t.value].producer for t in parts}
    fresh = {
        v: n for v, n in producers.items() if n >= 0 and trace.ops[n].name in NEW_LEAF and trace.values[v].requires_grad
    }
    live = [t for t in parts if trace.values[t.value].requires_grad and t.value not in fresh]
    return _Terms(parts, live, fresh, through)


def scalar_terms(flow: FlowFacts) -> Iterator[tuple[list[Summand], list[Summand]]]:
    """Yield (terms with gradient, all terms) of each scalar loss that has gradient."""
    for root in flow.trace.roots if _is_judged(flow) else ():
        if not flow.trace.values[root].shape and (terms := _terms_of(flow, root)).live:
            yield terms.live, terms.all


def _constant_in(flow: FlowFacts, root: ValueId) -> list[ConstantTerm]:
    """Return the constant terms of one scalar."""
    trace = flow.trace
    parts = _terms_of(flow, root)
    if not parts.live:
        return []
    numbers = _numbers(flow, trace.roots[0])
    judged = mask_of(flow.judged)
    lost = [t for t in parts.all if t not in parts.live and flow.masks.data.get(t.value, 0) & judged]
    if any(_takes_from_live(flow, term, parts) for term in lost):
        return []
    by_cut: dict[tuple[object, ...], ConstantTerm] = {}
    for term in lost:
        if _is_meant(flow, term, parts):
            continue
        constant = _constant_term(flow, term, parts.fresh.get(term.value))
        if constant is None:
            continue
        constant = replace(constant, weighted=_is_weighted(term, parts.live))
        key = (constant.cuts[0].location, constant.relabelled, constant.starves)
        if key in by_cut:
            before = by_cut[key]
            parameters = flow.by_index({p.index for p in (*before.parameters, *constant.parameters)})
            constant = replace(
                constant,
                parameters=parameters,
                site=before.site,
                count=before.count + 1,
                weighted=before.weighted or constant.weighted,
            )
        by_cut[key] = constant
    return [*by_cut.values(), *numbers]


def _is_weighted(term: Summand, live: Sequence[Summand]) -> bool:
    """Return True if a term has a constant factor other than 1 that no term with gradient has."""
    return term.factor is not None and abs(term.factor) not in (1.0, *(abs(t.factor) for t in live if t.factor))


def _takes_from_live(flow: FlowFacts, term: Summand, parts: _Terms) -> bool:
    """Return True if a term is made of values that carry gradient into the loss by another way."""
    live = {t.value for t in parts.live}
    elementwise = term.reduced_in is not None
    inner, _ = _taken_apart(flow.trace, flow.masks.data, term, through_detach=True, elementwise=elementwise)
    return any(t.value in live or _used_live(flow, t.value) for t in inner if t.value not in parts.fresh)


def _is_meant(flow: FlowFacts, term: Summand, parts: _Terms) -> bool:
    """Return True if a term without gradient is meant so, or may have the weight 0."""
    if term.weights and not any(t.weights == term.weights for t in parts.live):
        return True
    return _used_beside(flow, term, parts.through) or any(_is_reference(flow, term, t) for t in parts.live)


def _used_beside(flow: FlowFacts, term: Summand, through: Container[OpIndex]) -> bool:
    """Return True if a part of the loss with gradient also uses values of a constant term.

    A stable log-sum-exp subtracts a maximum inside and adds it outside; a divergence weighs two logarithms alike.
    """
    trace, data = flow.trace, flow.masks.data
    pending, seen = [term.value], {term.value}
    while pending:
        value = pending.pop()
        for number in flow.consumers.get(value, ()):
            op = trace.ops[number]
            if number not in through and op.name in _ELEMENTWISE and any(
                o in flow.on_path and trace.values[o].requires_grad for o in op.outputs
            ):  # fmt: skip
                return True
        producer = trace.values[value].producer
        for source in trace.ops[producer].inputs if producer >= trace.forward_start else ():
            if source not in seen and data.get(source) and not trace.values[source].requires_grad:
                seen.add(source)
                pending.append(source)
    return False


def _is_reference(flow: FlowFacts, term: Summand, live: Summand) -> bool:
    """Return True if a constant term is compared with the same computation with gradient."""
    if not term.factor or not live.factor or term.factor * live.factor > 0:
        return False
    if flow.masks.data.get(term.value) != flow.masks.data.get(live.value):
        return False
    frame = _computed_in(flow, term)
    return frame is not None and frame is _computed_in(flow, live)


def _computed_in(flow: FlowFacts, term: Summand) -> Frame | None:
    """Return the innermost frame that computes a term, before any detach.

    It is one object for each call expression.
    """
    trace = flow.trace
    value = term.value
    while (op := trace.made_by(value)) is not None and op.name in DETACHED_VALUES and op.inputs:
        value = op.inputs[0]
    return trace.sites.innermost(op.site) if op is not None else None


_ELEMENTWISE = SUMS | MULTIPLY | DIVIDE | TARGETED_LOSSES | {"where", "minimum", "maximum", "lerp"}
"""Functions in which a constant stands beside what trains, element by element."""


def _constant_term(flow: FlowFacts, term: Summand, relabelled: OpIndex | None) -> ConstantTerm | None:
    """Return a term without gradient, with its cuts.

    None if its factor is 0 or its parameters are starved anyway.
    """
    mask = flow.masks.data[term.value] & mask_of(flow.judged)
    if not term.factor or not mask & ~mask_of(flow.starved):
        return None
    cuts = flow.first_cuts(term.value, mask)
    if not cuts:
        return None
    starving = {cut.location for cut in flow.cuts}
    parameters = flow.by_index({index for _, behind in cuts for index in indices(behind)})
    site = flow.trace.ops[flow.trace.values[term.value].producer].site
    starves = any(cut.location in starving for cut, _ in cuts)
    return ConstantTerm(parameters, [cut for cut, _ in cuts], site, 1, relabelled, starves)


def added_numbers(flow: FlowFacts) -> Iterator[AddedNumber]:
    """Yield the Python numbers in the loss whose origin the recording does not show."""
    if _has_judged_terms(flow):
        for number, leaving in _suspects(flow, flow.trace.roots[0]):
            if not leaving and (question := _added_number(flow, number)) is not None:
                yield question


def _has_judged_terms(flow: FlowFacts) -> bool:
    """Return True if any loss has a live term, for which `_constant_in` examines the numbers."""
    trace = flow.trace
    return _is_judged(flow) and any(_terms_of(flow, root).live for root in trace.roots if not trace.values[root].shape)


def _suspects(flow: FlowFacts, root: ValueId) -> Iterator[tuple[OpIndex, list[OpIndex]]]:
    """Yield ops that add a Python number to a scalar, each with the ops by which it left torch."""
    trace, data = flow.trace, flow.masks.data
    suspects: list[OpIndex] = []
    pending = [Summand(root, 1.0)]
    while pending:
        term = pending.pop()
        parts = _parts(trace, data, term, through_detach=False)
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


def _numbers(flow: FlowFacts, root: ValueId) -> list[ConstantTerm]:
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
    if _used_live(flow, taken):
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


def _used_live(flow: FlowFacts, value: ValueId) -> bool:
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


def terms_behind(flow: FlowFacts) -> dict[int, list[SiteId]]:
    """Return for each cut the sites of the terms of the loss that its values enter.

    The key is the position in `FlowFacts.cuts`. Losses of a single term are left out: there the term is the loss.
    """
    trace = flow.trace
    terms = [parts for root in trace.roots if not trace.values[root].shape and len(parts := summands(flow, root)) > 1]
    if not terms or not flow.cuts or not _is_judged(flow):
        return {}
    behind: dict[ValueId, int] = {}
    for position, cut in enumerate(flow.cuts):
        for value in cut.outputs:
            behind[value] = behind.get(value, 0) | 1 << position
    for op in trace.ops[min(cut.op for cut in flow.cuts) :]:
        mask = union(behind, op.inputs)
        for output in op.outputs if mask else ():
            behind[output] = behind.get(output, 0) | mask
    sites: dict[int, dict[SiteId, None]] = {}
    for value in itertools.chain.from_iterable(terms):
        producer = trace.values[value].producer
        if producer >= trace.forward_start:
            for position in indices(behind.get(value, 0)):
                sites.setdefault(position, {}).setdefault(trace.ops[producer].site)
    return {position: list(found) for position, found in sites.items()}


def summands(flow: FlowFacts, root: ValueId) -> list[ValueId]:
    """Return the scalars that a loss is the sum of."""
    parts, _ = _taken_apart(flow.trace, flow.masks.data, Summand(root, 1.0), through_detach=False, elementwise=False)
    return list(dict.fromkeys(term.value for term in parts))
