"""The search for the cuts that starve parameters: which place ended whose gradient first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

from gradlint.flow.cut import Cut, CutKind, parameters_by_region, place, region_location
from gradlint.flow.cut_paths import CutPaths, PlaceIndex
from gradlint.flow.facts import FlowFacts
from gradlint.flow.hidden_cut import frozen_where_read, unseen, written_beside
from gradlint.flow.own_losses import by_own_loss
from gradlint.location import Location
from gradlint.traces.dataflow import ancestors, indices, mask_of, union
from gradlint.traces.events import BackwardCalled
from gradlint.traces.ids import NO_SITE, NO_VALUE, OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import DETACHING, MEMORY_OUT, NEW_LEAF, RESHAPES, SAME_VALUES
from gradlint.traces.ops import IN_FUNCTION, KIND_ALIAS, KIND_EXTRACT, KIND_OPAQUE
from gradlint.traces.trace import Parameter


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
        self._ancestors: dict[int, set[ValueId]] = {}

    def recorded(self) -> None:
        """Add the cuts that the recorded data flow shows."""
        proven = self.flow.proven
        for roots, members in by_own_loss(self.trace, sorted(self.flow.starved - proven.keys())):
            self._add_cuts(CutPaths(self.trace, roots, mask_of(members)), members)
        by_exit: dict[int, list[ParameterIndex]] = {}
        for index, number in proven.items():
            if number >= 0:
                by_exit.setdefault(number, []).append(index)
        for number, members in by_exit.items():
            paths = CutPaths(self.trace, self.trace.ops[number].inputs, mask_of(members), number)
            self._add_cuts(paths, members, leaving=number)

    def _add_cuts(self, paths: CutPaths, members: Iterable[ParameterIndex], leaving: int | None = None) -> None:
        """Add the cuts that explain why parameters have no gradient.

        Args:
            paths: the paths from these parameters.
            members: the indices of the parameters.
            leaving: number of the op by which their values left torch; None if they did not.
        """
        starved: dict[PlaceIndex, int] = {}
        later: dict[PlaceIndex, dict[PlaceIndex, None]] = {}
        values: dict[ParameterIndex, list[ValueId]] = {}
        for value, index in self.trace.owners.items():
            if self.trace.values[value].requires_grad:
                values.setdefault(index, []).append(value)
        for index in sorted(members):
            explaining = paths.explaining(index)
            if not explaining:
                first, *rest = paths.chain(values.get(index, ())) or (None,)
                if first is None:
                    continue
                explaining = [first]
                later.setdefault(first, {}).update(dict.fromkeys(rest))
            for number in explaining:
                starved[number] = starved.get(number, 0) | 1 << index
        for number, mask in starved.items():
            places = [where for n in later.get(number, ()) if (where := paths.cuts[n].location) is not None]
            for (op, output, _), lost in paths.lost_at(number, mask):
                exported = self._exported(output) if output in self.on_path else None
                leaves = exported if output in self.on_path else leaving
                for at, inside in self._detached_inside(op, lost):
                    cut = place(self.trace, at, output, leaving=leaves)
                    cut.relabelled = self._relabelled(at, output)
                    cut.outputs = [output]
                    if exported is None:  # else its return is one of them
                        cut.later = [where for where in places if where != cut.location]
                    self._add(cut, inside)

    def left_torch(self) -> None:
        """Add the places where values left torch.

        They are the cuts of parameters that are proven to reach the loss, but by no recorded path.
        """
        for index, number in self.flow.proven.items():
            if index in self.blamed:
                continue
            if number >= 0:
                self._add(place(self.trace, number, NO_VALUE, leaving=number), [index])
            else:
                site = self.trace.unrecorded[0][1] if self.trace.unrecorded else NO_SITE
                where = self.trace.location(site)
                self._add(Cut(CutKind.ROUNDTRIP, "unseen", where, site, len(self.trace.ops) - 1, []), [index])

    def unexplained(self) -> tuple[ParameterIndex, ...]:
        """Find cuts that no op shows or that lie in opaque ops; return the parameters left.

        For the parameters left the evidence decides whether the path to the loss is real.
        """
        for find in (frozen_where_read, written_beside):
            for cut, index in find(self.flow, sorted(self.flow.starved - self.blamed)):
                self._add(cut, [index])
        left = self.flow.starved - self.blamed
        for index, whole in sorted(self._last_opaque(left).items()):
            for at, inside in self._detached_inside(whole, [index]):
                self._add(place(self.trace, at, NO_VALUE), inside)
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
            self._add(cut, [index])
        return tuple(sorted(left))

    def finish(self) -> Iterable[Cut]:
        for cut in self.found.values():
            region = self.trace.ops[cut.op].region
            if cut.kind is CutKind.NO_GRAD and region >= 0:
                line = region_location(self.trace, self.trace.region(region))
                cut.parameters_inside = self._inside_regions.get(line, [])
        return self.found.values()

    def _add(self, cut: Cut, members: Sequence[ParameterIndex]) -> None:
        self.blamed.update(members)
        key = (cut.kind, cut.location, -1 if cut.location else cut.op)
        merged = self.found.setdefault(key, cut)
        merged.op = min(merged.op, cut.op)
        if merged is not cut:
            merged.outputs += cut.outputs
        if cut.site not in (merged.site, *merged.again):
            merged.again.append(cut.site)
        if cut.relabelled is None:
            merged.relabelled = None
        merged.later += [where for where in cut.later if where not in merged.later]
        known = {p.index for p in merged.starved}
        merged.starved += [self.trace.parameters[i] for i in members if i not in known]

    def _exported(self, value: ValueId) -> OpIndex | None:
        """Return the op by which a value's memory leaves torch, to come back as another tensor.

        None if anything else reads the value, moved or reshaped as it may be.
        """
        ops, taken = self.trace.ops, None
        pending, seen = [value], {value}
        while pending:
            for number in self.flow.consumers.get(pending.pop(), ()):
                op = ops[number]
                if op.kind == KIND_EXTRACT and op.name in MEMORY_OUT:
                    taken = OpIndex(number) if taken is None else taken
                elif op.name in SAME_VALUES | RESHAPES and op.kind != KIND_ALIAS:
                    pending += [output for output in op.outputs if output not in seen]
                    seen.update(op.outputs)
                elif op.kind not in (KIND_ALIAS, KIND_EXTRACT):
                    return None
        return taken

    def _last_opaque(self, members: Collection[ParameterIndex]) -> dict[ParameterIndex, OpIndex]:
        """Return the last opaque op on each parameter's path to the loss, where there is one."""
        data = self.masks.data
        found: dict[ParameterIndex, OpIndex] = {}
        left = mask_of(members)
        for number in range(len(self.trace.ops) - 1, self.trace.forward_start - 1, -1):
            op = self.trace.ops[number]
            if not left or op.kind != KIND_OPAQUE:
                continue
            through = left & union(data, op.inputs) & union(data, (o for o in op.outputs if o in self.on_path))
            found.update(dict.fromkeys(indices(through), OpIndex(number)))
            left &= ~through
        return found

    def _detached_inside(
        self, number: OpIndex, members: Sequence[ParameterIndex]
    ) -> list[tuple[OpIndex, Sequence[ParameterIndex]]]:
        """Return an op at which gradient of parameters ends, with them.

        In place of a reentrant checkpoint it is the detach inside, for the parameters whose data passed one.
        """
        op = self.trace.ops[number]
        if op.name != "CheckpointFunction" or op.kind != KIND_OPAQUE:
            return [(number, members)]
        at: dict[OpIndex, list[ParameterIndex]] = {}
        for index in members:
            at.setdefault(self._detach_before(number, 1 << index), []).append(index)
        return list(at.items())

    def _detach_before(self, number: OpIndex, bit: int) -> OpIndex:
        """Return the detach in a reentrant checkpoint that a parameter's data passed, else it."""
        ops = self.trace.ops
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
        return next(n for n in sorted(self._relabels) if output in self._before(n))

    def _before(self, number: int) -> set[ValueId]:
        """Return the values that the inputs of a relabelling are computed from."""
        if number not in self._ancestors:
            self._ancestors[number] = ancestors(self.trace.ops[:number], self.trace.ops[number].inputs)
        return self._ancestors[number]

    @cached_property
    def _inside_regions(self) -> dict[Location | None, list[Parameter]]:
        return parameters_by_region(self.trace)

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
