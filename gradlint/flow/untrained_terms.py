"""The criteria in a loss whose operands depend on nothing that trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.flow.facts import FlowFacts
from gradlint.flow.loss_terms import scalar_terms
from gradlint.flow.summands import Summand
from gradlint.location import Location
from gradlint.traces.dataflow import indices, mask_of
from gradlint.traces.ids import OpIndex
from gradlint.traces.op_families import TARGETED_LOSSES
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter


@dataclass(frozen=True)
class UntrainedTerm:
    """A criterion that is added to a loss that trains, and that no trained parameter changes."""

    op: Op
    parameters: list[Parameter]
    """The frozen parameters that it depends on; empty if it depends on data alone."""
    feeds_trained: bool
    """True if trained layers go on from these parameters, or the same line also computes terms that train."""


def find_untrained_terms(flow: FlowFacts) -> list[UntrainedTerm]:
    """Return the criteria in the loss that depend on nothing that trains.

    Those that are subtracted from the rest are left out, as are those whose weight may be zero.
    """
    trainable = mask_of(p.index for p in flow.trace.parameters if _may_train(flow, p))
    return [term for live, terms in scalar_terms(flow) for term in _untrained(flow, live, terms, trainable)]


def _untrained(flow: FlowFacts, live: list[Summand], terms: list[Summand], trainable: int) -> Iterator[UntrainedTerm]:
    trace = flow.trace
    lines = {_line(flow, term) for term in live}
    for term in terms:
        producer = trace.values[term.value].producer
        op = trace.ops[producer] if producer >= trace.forward_start else None
        mask = flow.masks.data.get(term.value, 0)
        if op is None or op.name not in TARGETED_LOSSES or trace.values[term.value].requires_grad or mask & trainable:
            continue
        if not _is_added(term, live):
            continue
        feeds = _line(flow, term) in lines or (bool(mask) and _feeds_trained(flow, mask, trainable))
        yield UntrainedTerm(op, flow.by_index(indices(mask)), feeds)


def _may_train(flow: FlowFacts, parameter: Parameter) -> bool:
    training = flow.trace.training
    if parameter.requires_grad or parameter.groups or parameter.index in flow.reached:
        return True
    return training is not None and bool(training.backwards) and training.may_train(parameter.key)


def _is_added(term: Summand, live: list[Summand]) -> bool:
    """Return True if a term is added to the others with a weight that is not zero."""
    if not term.factor or (term.weights and not any(t.weights == term.weights for t in live)):
        return False
    return all(t.factor is not None and t.factor * term.factor > 0 for t in live)


def _line(flow: FlowFacts, term: Summand) -> Location | None:
    """Return the line that computes a term."""
    producer = flow.trace.values[term.value].producer
    return flow.trace.location(flow.trace.ops[producer].site) if producer >= 0 else None


def _feeds_trained(flow: FlowFacts, mask: int, trainable: int) -> bool:
    """Return True if an op reads a trained parameter together with a result of some frozen ones."""
    trace = flow.trace
    trained = {value for value, index in trace.owners.items() if trainable >> index & 1}
    return any(
        not trained.isdisjoint(op.inputs)
        and any(v not in trained and flow.masks.data.get(v, 0) & mask for v in op.inputs)
        for op in trace.ops[OpIndex(trace.forward_start) :]
    )
