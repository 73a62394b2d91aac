"""The places that let no gradient pass between parameters and the loss, and which of them alone explain a loss of it.

A place explains why a parameter has no gradient if the gradient would arrive without this place: some data path from
the parameter to the loss passes no other. Where every path passes several places, only all those of one path together
explain it. A path through the target of a loss, or through the constant factor of something that trains, counts only
if there is no other: such values are often detached on purpose.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple, NewType

from gradlint.flow.cut import Cut, CutKind, place, place_of_op
from gradlint.location import Location
from gradlint.traces.dataflow import has_zero_gradient, indices, value_inputs
from gradlint.traces.ids import OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import (
    ENDS_GRADIENT,
    MULTIPLY,
    NEW_LEAF,
    PAIRWISE,
    TARGETED_LOSSES,
    ZERO_GRADIENT_OF_SECOND,
)
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
    also: PlaceIndex = OPEN
    """The op itself, where it has no gradient by nature and stands at a place that is no op (a grad-mode region)."""
    aside: bool = False
    """True if gradient of these inputs is often not wanted: of a target, or of a weight of what trains."""


class Chain(NamedTuple):
    """The fewest places on a data path from a value to the loss, the nearest to the value first."""

    length: int
    doubtful: int
    """Number of places among them that have no gradient by nature (an argmax), and of edges aside."""
    places: tuple[PlaceIndex, ...]


_ARRIVED = Chain(0, 0, ())


class Passed(NamedTuple):
    """The only place that a path passes."""

    place: PlaceIndex
    aside: bool
    """True if the path has an edge aside."""


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
        self._alone: dict[Passed, int] = {}
        self._chains: dict[ValueId, Chain] = dict.fromkeys(targets, _ARRIVED)
        self._edges: list[tuple[OpIndex, list[Edge]]] = []
        self._last: dict[PlaceIndex, int] = {}
        self._from_targets(len(trace.ops) if end is None else end)
        self._from_parameters(wanted)

    def explaining(self, index: ParameterIndex) -> list[PlaceIndex]:
        """Return the places without any of which the gradient of a parameter would arrive."""
        alone = [passed for passed, mask in self._alone.items() if mask >> index & 1]
        straight = [passed.place for passed in alone if not passed.aside]
        return straight or list(dict.fromkeys(passed.place for passed in alone))

    def chain(self, values: Iterable[ValueId]) -> tuple[PlaceIndex, ...]:
        """Return the fewest places on a path from some values; empty if there are none."""
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
            for sources, output, at, also, aside in edges:
                chain = chains[output]
                if at != OPEN:
                    last.setdefault(at, number)
                    for passed in (also, at):
                        if passed != OPEN and passed not in chain.places:
                            natural = self.cuts[passed].kind is CutKind.NONDIFFERENTIABLE
                            chain = Chain(chain.length + 1, chain.doubtful + natural, (passed, *chain.places))
                    if also != OPEN:  # a region that later ops lie in too still comes first
                        chain = chain._replace(places=(at, *(one for one in chain.places if one != at)))
                elif aside:
                    chain = chain._replace(doubtful=chain.doubtful + 1)
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
                    yield Edge(own, output, *self._places_between(number, op, own, output))
            return
        withheld = self._withheld(op)
        for output in op.outputs:
            if output not in self._chains or output in op.inputs:
                continue
            at, also = self._places_between(number, op, sources, output)
            if at != OPEN:
                yield Edge(sources, output, at, also)
            elif not withheld:
                aside = self._aside(op, output)
                yield Edge(tuple(v for v in sources if v not in aside), output, OPEN)
                yield Edge(aside, output, OPEN, aside=True)
            else:
                yield Edge(tuple(v for v in sources if v not in withheld), output, OPEN)
                yield Edge(withheld, output, self._place(number, op, output, in_region=False))

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

    def _aside(self, op: Op, output: ValueId) -> tuple[ValueId, ...]:
        """Return the inputs of an op that often are constants on purpose, and are."""
        values = self.trace.values
        if op.name in TARGETED_LOSSES:
            target = op.tensor(1, "target")
            return () if target is None or values[target].requires_grad else (target,)
        if op.name in MULTIPLY and values[output].requires_grad:
            return tuple(v for v in op.inputs if not values[v].requires_grad)
        return ()

    def _places_between(
        self, number: OpIndex, op: Op, sources: tuple[ValueId, ...], output: ValueId
    ) -> tuple[PlaceIndex, PlaceIndex]:
        """Return `Edge.place` and `Edge.also` from inputs of an op to an output."""
        values = self.trace.values
        if op.region == IN_FUNCTION or not sources:
            return OPEN, OPEN
        natural = self._has_no_gradient(op, sources, output)
        if op.region >= 0:
            also = self._place(number, op, output, in_region=False) if natural else OPEN
            return self._place(number, op, output, in_region=True), also
        if any(values[v].requires_grad for v in sources):
            natural = (
                not values[output].requires_grad
                or output in self.trace.owners
                or op.name in NEW_LEAF
                or has_zero_gradient(op, values)
            )
        return self._place(number, op, output, in_region=False) if natural else OPEN, OPEN

    def _has_no_gradient(self, op: Op, sources: tuple[ValueId, ...], output: ValueId) -> bool:
        """Return True if an op lets no gradient pass by what it is, whatever requires grad."""
        values = self.trace.values
        return (
            op.kind in (KIND_EXTRACT, KIND_ALIAS)
            or op.name in ENDS_GRADIENT
            or (op.name == "grad" and not op.argument(4, "create_graph"))
            or (any(_is_real(values[v].dtype) for v in sources) and not _is_real(values[output].dtype))
            or has_zero_gradient(op, values)
        )

    def _place(self, number: OpIndex, op: Op, output: ValueId, *, in_region: bool) -> PlaceIndex:
        """Return the place at which gradient stops: the grad-mode region or the op itself."""
        if in_region:
            event = self.trace.region(op.region)
            key: object = (event.site, event.how, event.library, event.decorated)
        else:
            key = (op.site, op.func, op.kind, self.trace.values[output].requires_grad)
        known = self._by_site.get(key)
        if known is None:
            cut = place(self.trace, number, output) if in_region else place_of_op(self.trace, number, output)
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
        past_one: dict[ValueId, dict[Passed, int]] = {}
        """Value → the only place on a path to it → parameters with such a path."""
        for value, index in self.trace.owners.items():
            if wanted >> index & 1 and self.trace.values[value].requires_grad:
                untouched[value] = 1 << index
        for number, edges in self._edges:
            for sources, output, at, also, aside in edges:
                mask = 0
                for source in sources:
                    mask |= untouched.get(source, 0)
                passed = [masks for v in sources if (masks := past_one.get(v))]
                if at == OPEN:
                    if mask:
                        untouched[output] = untouched.get(output, 0) | mask
                    for masks in passed:
                        for (one, was_aside), beyond in masks.items():
                            self._pass_on(past_one, number, output, Passed(one, was_aside or aside), beyond)
                    continue
                owner = self.trace.owners.get(output)
                if owner is not None:
                    mask &= ~(1 << owner)
                if mask:
                    self.endings.setdefault(at, []).append(Ending(number, output, mask))
                if also != OPEN:
                    continue
                self._pass_on(past_one, number, output, Passed(at, False), mask)
                for again in (Passed(at, False), Passed(at, True)):
                    for masks in passed:
                        self._pass_on(past_one, number, output, again, masks.get(again, 0))

    def _pass_on(
        self, past_one: dict[ValueId, dict[Passed, int]], number: OpIndex, output: ValueId, passed: Passed, mask: int
    ) -> None:
        """Note the parameters that come to an output past one place only."""
        if not mask:
            return
        chain = self._chains[output]
        if chain.length == 0:
            passed = Passed(passed.place, passed.aside or chain.doubtful > 0)
            self._alone[passed] = self._alone.get(passed, 0) | mask
        elif self._last[passed.place] > number:  # it may have to pass the same place again
            masks = past_one.setdefault(output, {})
            masks[passed] = masks.get(passed, 0) | mask

    def lost_at(self, number: PlaceIndex, wanted: int) -> Iterator[tuple[Ending, list[ParameterIndex]]]:
        """Yield the outputs at which a place ends gradient first, each with its parameters."""
        for ending in self.endings.get(number, ()):
            if lost := ending.mask & wanted:
                yield ending, indices(lost)


def _is_real(dtype: str) -> bool:
    """Return True for a type of real or complex numbers, as text; integers have no gradient."""
    return "float" in dtype or "complex" in dtype
