"""The terms of a scalar loss: those with gradient, and those behind each cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.flow.cut import Cut
from gradlint.flow.facts import FlowFacts
from gradlint.flow.summands import Summand, summands, taken_apart
from gradlint.traces.dataflow import indices, union
from gradlint.traces.ids import OpIndex, SiteId, ValueId
from gradlint.traces.op_families import NEW_LEAF
from gradlint.traces.trace import Parameter


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


def is_judged(flow: FlowFacts) -> bool:
    """Return True if the terms of the loss are judged at all."""
    trace = flow.trace
    return trace.loss_given and (len(trace.roots) == 1 or trace.training is not None)


@dataclass(frozen=True)
class LossTerms:
    """The terms of one scalar loss."""

    all: list[Summand]
    live: list[Summand]
    """Those with gradient."""
    fresh: dict[ValueId, OpIndex]
    """Value of a relabelled leaf → the op that relabelled it."""
    through: set[OpIndex]
    """The ops through which the loss was taken apart."""


def terms_of(flow: FlowFacts, root: ValueId) -> LossTerms:
    """Return the terms of one scalar loss."""
    trace = flow.trace
    parts, through = taken_apart(trace, flow.masks.data, Summand(root, 1.0), through_detach=False, elementwise=True)
    producers = {t.value: trace.values[t.value].producer for t in parts}
    fresh = {
        v: n for v, n in producers.items() if n >= 0 and trace.ops[n].name in NEW_LEAF and trace.values[v].requires_grad
    }
    live = [t for t in parts if trace.values[t.value].requires_grad and t.value not in fresh]
    return LossTerms(parts, live, fresh, through)


def scalar_terms(flow: FlowFacts) -> Iterator[tuple[list[Summand], list[Summand]]]:
    """Yield (terms with gradient, all terms) of each scalar loss that has gradient."""
    for root in flow.trace.roots if is_judged(flow) else ():
        if not flow.trace.values[root].shape and (terms := terms_of(flow, root)).live:
            yield terms.live, terms.all


def terms_behind(flow: FlowFacts) -> dict[int, list[SiteId]]:
    """Return for each cut the sites of the terms of the loss that its values enter.

    The key is the position in `FlowFacts.cuts`. Losses of a single term are left out: there the term is the loss.
    """
    trace = flow.trace
    terms = [parts for root in trace.roots if not trace.values[root].shape and len(parts := summands(flow, root)) > 1]
    if not terms or not flow.cuts or not is_judged(flow):
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
