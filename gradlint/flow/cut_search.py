"""The search for the cuts that starve parameters: which place ended whose gradient first. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

from gradlint.flow.cut import Cut, CutKind, place
from gradlint.flow.facts import FlowFacts
from gradlint.flow.hidden_cut import frozen_where_read, unseen, written_beside
from gradlint.location import Location
from gradlint.traces.dataflow import ancestors, indices, mask_of
from gradlint.traces.events import BackwardCalled
from gradlint.traces.ids import NO_SITE, NO_VALUE, ParameterIndex, ValueId
from gradlint.traces.op_families import DETACHING, NEW_LEAF
from gradlint.traces.ops import IN_FUNCTION, KIND_OPAQUE


def find_cuts(flow: FlowFacts) -> tuple[list[Cut], tuple[ParameterIndex, ...]]:
    """Return the cuts in the order of execution, and the parameters (indices) without a cut.

    The parameters stay in `flow.starved` only if there is evidence that the loss moves with them.
    """
    search = _CutSearch(flow)
    search.recorded()
    search.left_torch()
    unexplained = search.unexplained()
    return sorted(search.finish(), key=lambda cut: cut.op), unexplained


class _CutSearch:
    def __init__(self, flow: FlowFacts) -> None:
        self.flow = flow
        self.trace = flow.trace
        self.masks = flow.masks
        self.on_path = flow.on_path
        self.found: dict[tuple[CutKind, Location | None, int], Cut] = {}
        self.blamed: set[ParameterIndex] = set()
        """Indices of the parameters for which a cut was found."""

    def recorded(self) -> None:
        """Add the cuts that the recorded data flow shows."""
        proven = self.flow.proven
        to_exit = {
            index: ancestors(self.trace.ops[: number + 1], self.trace.ops[number].inputs)
            for index, number in proven.items()
            if number >= 0
        }
        wanted = mask_of(self.flow.starved)
        for at, output, lost in self.masks.cuts:
            for index in indices(lost & wanted):
                if proven.get(index, 0) < 0:
                    continue
                if output not in self.on_path and output not in to_exit.get(index, ()):
                    continue
                number = self._detached_inside(at, 1 << index)
                leaves = proven.get(index) if output not in self.on_path else None
                cut = place(self.trace, number, output, leaving=leaves)
                cut.relabelled = self._relabelled(number, output)
                self._add(cut, index)

    def left_torch(self) -> None:
        """Add the places where values left torch.

        They are the cuts of parameters that are proven to reach the loss, but by no recorded path.
        """
        for index, number in self.flow.proven.items():
            if index in self.blamed:
                continue
            if number >= 0:
                self._add(place(self.trace, number, NO_VALUE, leaving=number), index)
            else:
                site = self.trace.unrecorded[0][1] if self.trace.unrecorded else NO_SITE
                where = self.trace.location(site)
                self._add(Cut(CutKind.ROUNDTRIP, "unseen", where, site, len(self.trace.ops) - 1, []), index)

    def unexplained(self) -> tuple[ParameterIndex, ...]:
        """Find cuts that no op shows or that lie in opaque ops; return the parameters that are still without one.

        For these the evidence decides whether the path to the loss is real.
        """
        for find in (frozen_where_read, written_beside):
            for cut, index in find(self.flow, sorted(self.flow.starved - self.blamed)):
                self._add(cut, index)
        left = self.flow.starved - self.blamed
        for index in sorted(left):
            whole = self._whole(1 << index)
            if whole >= 0:
                self._add(place(self.trace, self._detached_inside(whole, 1 << index), NO_VALUE), index)
        left -= self.blamed
        for index in sorted(left):
            effect = self.flow.evidence.of_parameter(index)
            if effect.outcome == "reaches":
                continue
            self.flow.starved.discard(index)
            if effect.outcome == "unknown":
                self.flow.why_undecided = effect.reason
                self.flow.undecided.add(index)
            else:
                self.flow.unused.add(index)  # an autograd.grad, say, whose result its value has no part in
        for cut, index in unseen(self.flow, sorted(self.flow.starved - self.blamed)):
            self._add(cut, index)
        return tuple(sorted(left))

    def finish(self) -> Iterable[Cut]:
        for cut in self.found.values():
            cut.later = self._later(cut)
        return self.found.values()

    def _add(self, cut: Cut, index: ParameterIndex) -> None:
        self.blamed.add(index)
        key = (cut.kind, cut.location, -1 if cut.location else cut.op)
        merged = self.found.setdefault(key, cut)
        merged.op = min(merged.op, cut.op)
        if cut.site not in (merged.site, *merged.again):
            merged.again.append(cut.site)
        if cut.relabelled is None:
            merged.relabelled = None
        parameter = self.trace.parameters[index]
        if parameter not in merged.starved:
            merged.starved.append(parameter)

    def _whole(self, bit: int) -> int:
        """Return the last opaque op on a parameter's path to the loss; -1 for none."""
        data = self.masks.data
        for number in range(len(self.trace.ops) - 1, self.trace.forward_start - 1, -1):
            op = self.trace.ops[number]
            if op.kind != KIND_OPAQUE or not any(data.get(i, 0) & bit for i in op.inputs):
                continue
            if any(o in self.on_path and data.get(o, 0) & bit for o in op.outputs):
                return number
        return -1

    def _detached_inside(self, number: int, bit: int) -> int:
        """Return the number of the detach inside a reentrant checkpoint, else `number`.

        A parameter's data passed that detach.
        """
        ops = self.trace.ops
        if ops[number].name != "CheckpointFunction" or ops[number].kind != KIND_OPAQUE:
            return number
        pending = [ops[number].inputs[-1]]
        seen: set[int] = set()
        while pending:
            producer = self.trace.values[pending.pop()].producer
            if 0 <= producer < number and producer not in seen and ops[producer].region == IN_FUNCTION:
                seen.add(producer)
                op = ops[producer]
                if op.name in DETACHING and any(self.masks.data.get(i, 0) & bit for i in op.inputs):
                    return producer
                pending += op.inputs
        return number

    # -- what was made to require grad again --------------------------------------------------------------------

    def _relabelled(self, number: int, output: ValueId) -> int | None:
        """Return the op that sets requires_grad after a cut, on every path from there to the loss."""
        if number in self._relabels:
            return number
        if output not in self.on_path or output in self._direct:
            return None
        ops = self.trace.ops
        return next(n for n in sorted(self._relabels) if output in ancestors(ops[:n], ops[n].inputs))

    @cached_property
    def _direct(self) -> set[ValueId]:
        """The values on a way to the loss that passes no relabelling."""
        if not self._relabels:
            return self.on_path
        return ancestors([op for n, op in enumerate(self.trace.ops) if n not in self._relabels], self.trace.roots)

    @cached_property
    def _relabels(self) -> set[int]:
        """Ops that made a computed tensor a leaf that requires grad, on the way to the loss; not those whose own
        gradient is then asked for (penalties, saliency, forces, cached gradients)."""
        trace = self.trace
        if any(e.op >= trace.forward_start and e.backward is None for e in trace.events_of(BackwardCalled)):
            return set()  # a backward inside the forward
        numbers = set()
        for number in range(trace.forward_start, len(trace.ops)):
            op = trace.ops[number]
            if op.name not in NEW_LEAF or not op.outputs or not trace.values[op.outputs[0]].requires_grad:
                continue
            asked = any(trace.ops[n].name == "grad" for n in self.flow.consumers.get(op.outputs[0], ()))
            if not asked and op.outputs[0] in self.on_path and self.masks.data.get(op.outputs[0]):
                numbers.add(number)
        return numbers

    # -- what would cut next ------------------------------------------------------------------------------------

    def _later(self, cut: Cut) -> list[Location]:
        """Return the detaches and regions that would cut the path to the loss without this cut."""
        trace = self.trace
        wanted = mask_of(p.index for p in cut.starved)
        places: dict[Location, None] = {}
        for number in range(cut.op + 1, len(trace.ops)):
            op = trace.ops[number]
            detaches = op.name in DETACHING or op.name == "data"
            if not detaches and op.region < 0:
                continue
            if not any(o in self.on_path for o in op.outputs):
                continue
            if any(self.masks.data.get(v, 0) & ~self.masks.live.get(v, 0) & wanted for v in op.inputs):
                other = place(trace, number, op.outputs[0])
                if other.location is not None and other.location != cut.location:
                    places.setdefault(other.location)
        return list(places)[:5]
