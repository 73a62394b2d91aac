"""The data flow between the lines of a training setup's modules, and where gradient flows back along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint.findings import Calls, FlowMap, MapCut
from gradlint.flow.cut import Cut
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import outcome_of
from gradlint.flow.overview import in_tree_order, overview
from gradlint.location import Location
from gradlint.traces.dataflow import mask_of, value_inputs
from gradlint.traces.ids import NO_CALL, CallIndex, ModuleIndex, SiteId, ValueId
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter

WITH_GRADIENT, LOST, WITHOUT = 1, 2, 4
"""The flows of `FlowMap.edges`."""
NAMES = 3
"""Names of functions in a label."""


def flow_map(flow: Flow) -> FlowMap:
    """Return the map of a recorded training setup."""
    return _Map(flow).result()


class _Map:
    """The calls of each line, and what flows between them."""

    def __init__(self, flow: Flow) -> None:
        self._flow = flow
        self._trace = trace = flow.trace
        self._position = {module.number: p for p, (module, _) in enumerate(in_tree_order(trace))}
        self._trainable = mask_of(p.index for p in trace.parameters if p.requires_grad)
        self._numbers: dict[tuple[int, object], int] = {}
        self._calls: list[Calls] = []
        self._names: list[dict[str, None]] = []
        self._counts: list[int] = []
        self._edges: dict[tuple[int, int], int] = {}
        self._of_op: dict[int, int] = {}
        self._of_site: dict[SiteId, object] = {}
        self._of_call: dict[CallIndex, int] = {}
        self._with_gradient = self._gradient_values()

    def result(self) -> FlowMap:
        """Return the map."""
        trace, flow = self._trace, self._flow
        number = {v: self._end("inputs", name) for v, name in self._inputs().items()}
        for index in range(trace.forward_start, len(trace.ops)):
            self._add(index, trace.ops[index], number)
        loss = self._end("loss", "loss" if trace.loss_given else "output")
        for root in trace.roots:
            producer = self._of_op.get(trace.values[root].producer)
            if producer is not None:
                self._connect(producer, loss, root, (root,))
        shown = [p for p in trace.parameters if p.in_tree]
        positions = {p.index: n for n, p in enumerate(shown)}
        reasons: dict[tuple[str, Location | None], int] = {}
        of_parameter = []
        for parameter in shown:
            outcome = outcome_of(flow, parameter)
            of_parameter.append(reasons.setdefault((outcome.why, outcome.location), len(reasons)))
        readers = (sorted({self._of_op[n] for n in flow.readers(p) if n in self._of_op}) for p in shown)
        return FlowMap(
            overview(flow),
            tuple(self._finished()),
            tuple((one, other, kind) for (one, other), kind in self._edges.items()),
            tuple(
                MapCut(
                    cut.clause, cut.location, self._of_op[cut.op],
                    tuple(positions[p.index] for p in parameters if p.index in positions),
                )
                for cut, parameters in self._cuts()
                if cut.op in self._of_op
            ),
            tuple(map(tuple, readers)),
            tuple(reasons),
            tuple(of_parameter),
        )  # fmt: skip

    def _cuts(self) -> Iterator[tuple[Cut, list[Parameter]]]:
        """Yield the cuts that starve parameters, then those of terms without gradient."""
        known = set()
        for cut in self._flow.cuts:
            known.add((cut.location, cut.name))
            yield cut, list(cut.starved)
        for term in self._flow.constant_terms:
            for cut in term.cuts:
                if (cut.location, cut.name) not in known:
                    known.add((cut.location, cut.name))
                    yield cut, list(term.parameters)

    def _inputs(self) -> dict[ValueId, str]:
        return dict.fromkeys(self._trace.inputs, "inputs")

    def _gradient_values(self) -> set[ValueId]:
        """Return the values that gradient of the loss returns to, on its way to parameters."""
        trace, live = self._trace, self._flow.masks.live
        found = {root for root in trace.roots if live.get(root)}
        for op in reversed(trace.ops[trace.forward_start :]):
            if any(output in found for output in op.outputs):
                found.update(value for value in value_inputs(op) if live.get(value))
        return found

    def _add(self, index: int, op: Op, inputs: dict[ValueId, int]) -> None:
        """Add an op to the calls of its line, with the edges to it."""
        if not op.inputs or (op.call == NO_CALL and not any(o in self._flow.on_path for o in op.outputs)):
            return
        if op.outputs and all(output in op.inputs for output in op.outputs):
            return
        number = self._number(op)
        self._of_op[index] = number
        self._counts[number] += 1
        self._names[number].setdefault(op.name)
        for value in op.inputs:
            source = self._of_op.get(self._trace.values[value].producer, inputs.get(value, -1))
            if source >= 0:
                self._connect(source, number, value, op.outputs)

    def _connect(self, source: int, target: int, value: ValueId, made: Sequence[ValueId]) -> None:
        """Add the flow of a value from one line to another, where other values are made of it."""
        if source == target:
            return
        depends = self._flow.masks.data.get(value, 0) & self._trainable
        if value in self._with_gradient and any(output in self._with_gradient for output in made):
            kind = WITH_GRADIENT
        elif depends and any(output in self._flow.on_path for output in made):
            kind = LOST
        else:
            kind = WITHOUT
        self._edges[source, target] = self._edges.get((source, target), 0) | kind

    def _number(self, op: Op) -> int:
        """Return the position of the calls that an op belongs to."""
        module = self._module(op.call)
        place = self._of_site.get(op.site)
        if place is None:
            frame = self._trace.sites.innermost(op.site) if op.site >= 0 else None
            place = (frame.path, frame.location.line) if frame is not None else ("", 0)
            self._of_site[op.site] = place
        key = (module, place)
        if key not in self._numbers:
            self._numbers[key] = self._new(Calls(module, "", 0, self._trace.location(op.site)))
        return self._numbers[key]

    def _new(self, calls: Calls) -> int:
        self._calls.append(calls)
        self._names.append({})
        self._counts.append(0)
        return len(self._calls) - 1

    def _end(self, kind: str, name: str) -> int:
        key = (-1, kind)
        if key not in self._numbers:
            self._numbers[key] = self._new(Calls(-1, name, 0, None, kind))
        return self._numbers[key]

    def _module(self, call: CallIndex) -> int:
        """Return the position of the innermost module of the model around a module call."""
        if call not in self._of_call:
            around = (self._trace.calls[c].module for c in self._trace.calls_around(call))
            modules = (self._position.get(ModuleIndex(module)) for module in around)
            self._of_call[call] = next((m for m in modules if m is not None), -1)
        return self._of_call[call]

    def _finished(self) -> Iterator[Calls]:
        for calls, names, count in zip(self._calls, self._names, self._counts, strict=True):
            label = ", ".join(list(names)[:NAMES]) + (", …" if len(names) > NAMES else "")
            yield Calls(calls.module, label or calls.label, count, calls.location, calls.kind)
