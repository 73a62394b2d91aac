"""The terms of a loss that depend on trained parameters and carry no gradient."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import replace

from gradlint.flow.added_numbers import constant_numbers, used_live
from gradlint.flow.facts import FlowFacts
from gradlint.flow.loss_terms import ConstantTerm, LossTerms, is_judged, terms_of
from gradlint.flow.summands import Summand, taken_apart
from gradlint.traces.dataflow import indices, mask_of
from gradlint.traces.ids import OpIndex, ValueId
from gradlint.traces.op_families import DETACHED_VALUES, DIVIDE, MULTIPLY, SUMS, TARGETED_LOSSES
from gradlint.traces.sites import Frame


def constant_terms(flow: FlowFacts) -> list[ConstantTerm]:
    """Return the terms of the loss that depend on trained parameters and train nothing.

    Empty if a detached part subtracts what a live one adds. On purpose, such a sum has the value of one and the
    gradient of the other.
    """
    trace = flow.trace
    if not is_judged(flow):
        return []
    by_cut: dict[tuple[object, ...], ConstantTerm] = {}
    for root in trace.roots:
        if not trace.values[root].shape:
            for term in _constant_in(flow, root):
                # each recorded step has its own loss, and the same cause in it
                by_cut.setdefault((term.cuts[0].location, term.relabelled, term.starves), term)
    return list(by_cut.values())


def _constant_in(flow: FlowFacts, root: ValueId) -> list[ConstantTerm]:
    """Return the constant terms of one scalar."""
    trace = flow.trace
    parts = terms_of(flow, root)
    if not parts.live:
        return []
    numbers = constant_numbers(flow, trace.roots[0])
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


def _takes_from_live(flow: FlowFacts, term: Summand, parts: LossTerms) -> bool:
    """Return True if a term is made of values that carry gradient into the loss by another way."""
    live = {t.value for t in parts.live}
    elementwise = term.reduced_in is not None
    inner, _ = taken_apart(flow.trace, flow.masks.data, term, through_detach=True, elementwise=elementwise)
    return any(t.value in live or used_live(flow, t.value) for t in inner if t.value not in parts.fresh)


def _is_meant(flow: FlowFacts, term: Summand, parts: LossTerms) -> bool:
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
