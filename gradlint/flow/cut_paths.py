"""The places that let no gradient pass between parameters and the loss, and which of them alone explain a loss of it.

A place explains why a parameter has no gradient if the gradient would arrive without this place: some data path from
the parameter to the loss passes no other. Where every path passes several places, only all those of one path together
explain it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, NewType

from gradlint.flow.cut import Cut, CutKind, place
from gradlint.location import Location
from gradlint.traces.dataflow import has_zero_gradient, indices, value_inputs
from gradlint.traces.ids import OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import ENDS_GRADIENT, NEW_LEAF, PAIRWISE, ZERO_GRADIENT_OF_SECOND
from gradlint.traces.ops import IN_FUNCTION, KIND_ALIAS, KIND_EXTRACT, KIND_OPAQUE, Op
from gradlint.traces.trace import Trace

PlaceIndex = NewType("PlaceIndex", int)
"""Index of a place that lets no gradient pass, within one search."""
OPEN = PlaceIndex(-1)
"""Stands for no place: gradient passes."""


class Edge(NamedTuple):
    """A step of the data flow: from inputs of an op to one of its outputs."""

    sources: tuple[ValueId, ...]
    output: ValueId
    place: PlaceIndex
    """The place that lets no gradient pass here, or OPEN."""


class Chain(NamedTuple):
    """The fewest places on a data path from a value to the loss, the nearest to the value first."""

    length: int
    natural: int
    """Number of places among them that have no gradient by nature (an argmax)."""
    places: tuple[PlaceIndex, ...]


_ARRIVED = Chain(0, 0, ())


class Ending(NamedTuple):
    """An output that gradient of some parameters would have to leave first."""

    op: OpIndex
    output: ValueId
    mask: int
    """The parameters, as a mask."""


class CutPaths:
    """The places that let no gradient pass on the data paths from parameters to some values.

    Attributes:
        cuts: one cut for each place, without parameters.
        endings: place → the outputs at which it is the first on the way of parameters, in the order of execution.
    """

    def __init__(self, trace: Trace, targets: Collection[ValueId], wanted: int, end: int | None = None) -> None:
        """Follow the data paths to the targets.

        Args:
            trace: the recording.
            targets: the values that gradient starts from.
            wanted: the parameters without gradient, as a mask.
            end: number of the first op that does not count; None for no bound.
        """
        self.trace = trace
        self.cuts: list[Cut] = []
        self.endings: dict[PlaceIndex, list[Ending]] = {}
        self._numbers: dict[tuple[CutKind, Location | None, int], PlaceIndex] = {}
        self._by_site: dict[object, PlaceIndex] = {}
        self._alone: dict[PlaceIndex, int] = {}
        self._chains: dict[ValueId, Chain] = dict.fromkeys(targets, _ARRIVED)
        self._edges: list[tuple[OpIndex, list[Edge]]] = []
        self._last: dict[PlaceIndex, int] = {}
        self._from_targets(len(trace.ops) if end is None else end)
        self._from_parameters(wanted)

    def explaining(self, index: ParameterIndex) -> list[PlaceIndex]:
        """Return the places without any of which the gradient of a parameter would arrive.

        Those that have no gradient by nature count only if there are no others.
        """
        alone = [number for number, mask in self._alone.items() if mask >> index & 1]
        return [n for n in alone if self.cuts[n].kind is not CutKind.NONDIFFERENTIABLE] or alone

    def chain(self, values: Iterable[ValueId]) -> tuple[PlaceIndex, ...]:
        """Return the fewest places on a path from any of some values; empty if there is no path or none on it."""
        chains = [self._chains[v] for v in values if v in self._chains]
        return min(chains).places if chains else ()

    # -- backwards, from the targets ----------------------------------------------------------------------------

    def _from_targets(self, end: int) -> None:
        """Find the fewest places between each value and the targets."""
        trace, chains, last = self.trace, self._chains, self._last
        for number in range(end - 1, trace.forward_start - 1, -1):
            op = trace.ops[number]
            if not any(o in chains for o in op.outputs):
                continue
            edges = [edge for edge in self._edges_of(OpIndex(number), op) if edge.sources]
            for sources, output, at in edges:
                chain = chains[output]
                if at != OPEN:
                    last.setdefault(at, number)
                    if at not in chain.places:
                        natural = chain.natural + (self.cuts[at].kind is CutKind.NONDIFFERENTIABLE)
                        chain = Chain(chain.length + 1, natural, (at, *chain.places))
                for source in sources:
                    known = chains.get(source)
                    if known is None or chain[:2] < known[:2]:
                        chains[source] = chain
            if edges:
                self._edges.append((OpIndex(number), edges))
        self._edges.reverse()

    def _edges_of(self, number: OpIndex, op: Op) -> Iterator[Edge]:
        sources = value_inputs(op)
        if len(op.outputs) > 1 and (op.name in PAIRWISE or op.name.startswith("_foreach_")):
            for position, output in enumerate(op.outputs):
                if output in self._chains and output not in op.inputs:
                    own = op.inputs[position :: len(op.outputs)]
                    yield Edge(own, output, self._place_between(number, op, own, output))
            return
        withheld = self._withheld(op)
        for output in op.outputs:
            if output not in self._chains or output in op.inputs:
                continue
            at = self._place_between(number, op, sources, output)
            if not withheld or at != OPEN:
                yield Edge(sources, output, at)
            else:
                yield Edge(tuple(v for v in sources if v not in withheld), output, OPEN)
                yield Edge(withheld, output, self._place(number, op, output))

    def _withheld(self, op: Op) -> tuple[ValueId, ...]:
        """Return the inputs to which an op gives no gradient although it gives some to others."""
        if op.name in ZERO_GRADIENT_OF_SECOND:
            second = op.tensor(1, "other")
            return () if second is None or second == op.tensor(0, "input") else (second,)
        if op.kind != KIND_OPAQUE or not self.trace.dropped:
            return ()
        dropped = tuple(v for n, v in enumerate(op.inputs) if (op.func, n) in self.trace.dropped)
        # the last input of all was computed inside, from the others
        return (*dropped, op.inputs[-1]) if dropped else ()

    def _place_between(self, number: OpIndex, op: Op, sources: tuple[ValueId, ...], output: ValueId) -> PlaceIndex:
        """Return the place that lets no gradient pass from inputs of an op to an output, or OPEN."""
        values = self.trace.values
        if op.region == IN_FUNCTION or not sources:
            return OPEN
        if any(values[v].requires_grad for v in sources):
            stops = not values[output].requires_grad or output in self.trace.owners or op.name in NEW_LEAF
        else:
            # nothing came that could pass: what the op would do follows from what it is
            stops = (
                op.region >= 0
                or op.kind in (KIND_EXTRACT, KIND_ALIAS)
                or op.name in ENDS_GRADIENT
                or (op.name == "grad" and not op.argument(4, "create_graph"))
                or not any(word in values[output].dtype for word in ("float", "complex"))
            )
        return self._place(number, op, output) if stops or has_zero_gradient(op, values) else OPEN

    def _place(self, number: OpIndex, op: Op, output: ValueId) -> PlaceIndex:
        """Return the place of an op at which gradient stops."""
        where: object = op.site
        if op.region >= 0:
            event = self.trace.region(op.region)
            where = (event.site, event.how, event.library, event.decorated)
        key = (where, op.region >= 0 or (op.func, op.kind, self.trace.values[output].requires_grad))
        known = self._by_site.get(key)
        if known is None:
            cut = place(self.trace, number, output)
            merged = (cut.kind, cut.location, -1 if cut.location else number)
            known = self._numbers.setdefault(merged, PlaceIndex(len(self.cuts)))
            if known == len(self.cuts):
                self.cuts.append(cut)
            self._by_site[key] = known
        return known

    # -- forwards, from the parameters --------------------------------------------------------------------------

    def _from_parameters(self, wanted: int) -> None:
        """Find the places that explain a loss of gradient alone, and where gradient ends first."""
        untouched: dict[ValueId, int] = {}
        """Value → parameters whose gradient would come from there on a path without any place."""
        past_one: dict[ValueId, dict[PlaceIndex, int]] = {}
        """Value → place → parameters with a path to the value that passes this place and no other."""
        for value, index in self.trace.owners.items():
            if wanted >> index & 1:
                untouched[value] = 1 << index
        for number, edges in self._edges:
            for sources, output, at in edges:
                mask = 0
                for source in sources:
                    mask |= untouched.get(source, 0)
                passed = [past_one[v] for v in sources if v in past_one]
                if at == OPEN:
                    if mask:
                        untouched[output] = untouched.get(output, 0) | mask
                    for masks in passed:
                        for one, beyond in masks.items():
                            self._pass_on(past_one, number, output, one, beyond)
                    continue
                owner = self.trace.owners.get(output)
                if owner is not None:
                    mask &= ~(1 << owner)
                if mask:
                    self.endings.setdefault(at, []).append(Ending(number, output, mask))
                self._pass_on(past_one, number, output, at, mask | _union(passed, at))

    def _pass_on(
        self,
        past_one: dict[ValueId, dict[PlaceIndex, int]],
        number: OpIndex,
        output: ValueId,
        one: PlaceIndex,
        mask: int,
    ) -> None:
        """Note the parameters that come to an output past one place only."""
        if not mask:
            return
        if self._chains[output].length == 0:
            self._alone[one] = self._alone.get(one, 0) | mask
        elif self._last[one] > number:  # it may have to pass the same place again
            masks = past_one.setdefault(output, {})
            masks[one] = masks.get(one, 0) | mask

    def lost_at(self, number: PlaceIndex, wanted: int) -> Iterator[tuple[Ending, list[ParameterIndex]]]:
        """Yield the outputs at which a place is the first on the way of some parameters (a mask), with those."""
        for ending in self.endings.get(number, ()):
            if lost := ending.mask & wanted:
                yield ending, indices(lost)


def _union(masks: Iterable[Mapping[PlaceIndex, int]], key: PlaceIndex) -> int:
    union = 0
    for mask in masks:
        union |= mask.get(key, 0)
    return union
