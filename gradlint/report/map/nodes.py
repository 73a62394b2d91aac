"""The boxes of a map, nested: modules, repeated modules, lines of code; and the flow between the boxes of one level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from gradlint.findings import Finding, FlowMap
from gradlint.location import Location
from gradlint.report.module_tree import DASH, ModuleTree, Run

MOST = 40
"""Boxes of one level; of more, neighbours are put into a box together."""
LEADING = 6
"""Cuts that are shown from the start."""


@dataclass
class Node:
    """One box."""

    kind: str
    """``model``, ``module``, ``repeat``, ``group``, ``calls``, ``inputs`` or ``loss``."""
    label: str
    """Its name in the box around it."""
    name: str = ""
    """The whole name of a module."""
    type: str = ""
    """The class of a module."""
    parent: int = -1
    children: list[int] = field(default_factory=list)
    location: Location | None = None
    count: int = 0
    """Number of calls of a line."""
    parameters: list[int] = field(default_factory=list)
    """Positions of the parameters of the module itself."""
    states: Counter[str] = field(default_factory=Counter)
    """Outcome → number of tensors in it."""
    elements: int = 0
    """Number of scalars in its parameters."""
    cuts: list[int] = field(default_factory=list)
    """Positions of the cuts in the box itself."""
    cuts_within: int = 0
    """Number of cuts in it and in the boxes in it."""
    ran: bool = False
    """True if calls in it were recorded."""
    entries: dict[int, int] = field(default_factory=dict)
    """Box in it → flow that comes to it from outside."""
    exits: dict[int, int] = field(default_factory=dict)
    """Box in it → flow that leaves from it to the outside."""
    edges: dict[tuple[int, int], int] = field(default_factory=dict)
    """(box in it, box in it) → flow from one to the other."""

    @property
    def state(self) -> str:
        """The one outcome of its parameters, ``mixed``, or empty without parameters."""
        return next(iter(self.states)) if len(self.states) == 1 else "mixed" if self.states else ""


@dataclass(frozen=True)
class Mark:
    """A cut, the box that it is drawn on, and the findings about it."""

    text: str
    location: Location | None
    node: int
    parameters: tuple[int, ...]
    findings: tuple[int, ...]
    """Positions of the findings at the same line."""


class Nodes:
    """The boxes of one map. Boxes come after the one around them.

    Args:
        flow_map: the recorded flow.
        findings: the findings about its target.
    """

    def __init__(self, flow_map: FlowMap, findings: Sequence[Finding] = ()) -> None:
        self.map = flow_map
        self.findings = [f for f in findings if f.target in ("", flow_map.overview.target)]
        self.nodes: list[Node] = []
        self.of_calls = [-1] * len(flow_map.calls)
        """Position of calls → the box that shows them."""
        self.of_module = [-1] * len(flow_map.overview.modules)
        """Position of a module → its box."""
        self._first = self._first_calls()
        self._build()
        self._chunk()
        self._connect()
        self._total()
        self.marks = [
            Mark(c.text, c.location, self.of_calls[c.calls], c.parameters, self._findings_at(c.location, c.parameters))
            for c in flow_map.cuts
        ]
        for number, mark in enumerate(self.marks):
            self.nodes[mark.node].cuts.append(number)
            for node in self.around(mark.node):
                self.nodes[node].cuts_within += 1

    # -- nesting ----------------------------------------------------------------------------------------------------

    def _first_calls(self) -> list[int]:
        """Return the first calls in each module; a number beyond all where there are none."""
        modules = self.map.overview.modules
        first = [len(self.map.calls)] * len(modules)
        for number, calls in enumerate(self.map.calls):
            if calls.module >= 0:
                first[calls.module] = min(first[calls.module], number)
        for position in range(len(modules) - 1, -1, -1):
            parent = modules[position].parent
            if parent >= 0:
                first[parent] = min(first[parent], first[position])
        return first

    def _build(self) -> None:
        overview = self.map.overview
        own: list[list[int]] = [[] for _ in overview.modules]
        outside: list[int] = []
        for number, calls in enumerate(self.map.calls):
            (own[calls.module] if calls.module >= 0 else outside).append(number)
        self._own = own
        tree = ModuleTree([m.name for m in overview.modules], [m.parent for m in overview.modules], self._facts(own))
        is_empty = self._without_content(own)
        root = self._add(Node("model", overview.target), -1)
        pending: list[tuple[Run, int]] = [(Run((position,), overview.modules[position].name), root)
                                          for position in tree.roots]  # fmt: skip
        for number in outside:
            self._add_calls(number, root)
        while pending:
            run, above = pending.pop()
            if len(run.members) > 1:
                label = run.label if DASH in run.label else f"{run.label} ×{len(run.members)}"
                kind = overview.modules[run.members[0]].type
                repeat = self._add(Node("repeat", label, type=kind, count=len(run.members)), above)
                pending += [(Run((m,), self._label(m)), repeat) for m in run.members]
                continue
            position = run.members[0]
            module = overview.modules[position]
            label = run.label or module.name or module.type
            node = self._add(Node("module", label, module.name, module.type, parameters=list(module.parameters)), above)
            self.of_module[position] = node
            runs = tree.below(run, is_left_out=lambda child: is_empty[child])
            if not runs and len(own[position]) == 1:
                [number] = own[position]
                self.of_calls[number] = node
                self.nodes[node].location = self.map.calls[number].location
                self.nodes[node].ran = True
            else:
                for number in own[position]:
                    self._add_calls(number, node)
            pending += [(inner, node) for inner in reversed(runs)]

    def _facts(self, own: Sequence[Sequence[int]]) -> Iterable[tuple[object, ...]]:
        """Yield what each module has itself, by which repeated ones are alike."""
        overview = self.map.overview
        cut = {c.calls for c in self.map.cuts}
        for position, module in enumerate(overview.modules):
            parameters = (overview.parameters[index] for index in module.parameters)
            states = tuple((p.name[len(module.name) :], p.shape, p.outcome) for p in parameters)
            lines = tuple((self.map.calls[n].label, self.map.calls[n].location, n in cut) for n in own[position])
            yield module.class_number, states, lines

    def _without_content(self, own: Sequence[Sequence[int]]) -> list[bool]:
        """Return True for each module, in order, that has no parameters and did not run."""
        modules = self.map.overview.modules
        empty = [not (own[position] or module.parameters) for position, module in enumerate(modules)]
        for position in range(len(modules) - 1, -1, -1):
            if not empty[position] and modules[position].parent >= 0:
                empty[modules[position].parent] = False
        return empty

    def _label(self, position: int) -> str:
        modules = self.map.overview.modules
        module = modules[position]
        above = modules[module.parent].name if module.parent >= 0 else ""
        return module.name.removeprefix(f"{above}.") if above else module.name

    def _add(self, node: Node, parent: int) -> int:
        number = len(self.nodes)
        node.parent = parent
        self.nodes.append(node)
        if parent >= 0:
            self.nodes[parent].children.append(number)
        return number

    def _add_calls(self, number: int, parent: int) -> None:
        calls = self.map.calls[number]
        node = Node(calls.kind or "calls", calls.label, location=calls.location, count=calls.count, ran=True)
        self.of_calls[number] = self._add(node, parent)

    def _chunk(self) -> None:
        """Sort the boxes of each level by their first run, and group neighbours of too many."""
        first = [len(self.map.calls)] * len(self.nodes)
        for calls, box in enumerate(self.of_calls):
            first[box] = min(first[box], calls)
        for number in range(len(self.nodes) - 1, 0, -1):
            parent = self.nodes[number].parent
            first[parent] = min(first[parent], first[number])
        for number in range(len(self.nodes)):
            node = self.nodes[number]
            level = sorted(node.children, key=lambda child: (first[child], child))
            while len(level) > MOST:
                size = -(-len(level) // MOST)
                size = max(size, min(MOST, round(len(level) ** 0.5)))
                level = [self._group(level[at : at + size], number) for at in range(0, len(level), size)]
            node.children = level

    def _group(self, members: list[int], parent: int) -> int:
        if len(members) == 1:
            return members[0]
        first, last = self.nodes[members[0]], self.nodes[members[-1]]
        number = len(self.nodes)
        node = Node("group", f"{_end(first, 0)} … {_end(last, -1)}", parent=parent, children=members)
        node.count = sum(self.nodes[m].count if self.nodes[m].kind == "group" else 1 for m in members)
        self.nodes.append(node)
        for member in members:
            self.nodes[member].parent = number
        return number

    # -- flow -------------------------------------------------------------------------------------------------------

    def around(self, number: int) -> list[int]:
        """Return a box and those around it, innermost first."""
        found = []
        while number >= 0:
            found.append(number)
            number = self.nodes[number].parent
        return found

    def flows(self) -> dict[tuple[int, int], int]:
        """Return (innermost box, innermost box) → flow from one to the other."""
        found: dict[tuple[int, int], int] = {}
        for one, other, flow in self.map.edges:
            edge = self.of_calls[one], self.of_calls[other]
            if edge[0] != edge[1]:
                found[edge] = found.get(edge, 0) | flow
        return found

    def _connect(self) -> None:
        """Enter each flow at each level that it passes."""
        for one, other, flow in self.map.edges:
            source, target = self.of_calls[one], self.of_calls[other]
            if source == target:
                continue
            out, into = self.around(source), self.around(target)
            while len(out) > 1 and len(into) > 1 and out[-2:] == into[-2:]:
                del out[-1], into[-1]
            while out and into and out[-1] == into[-1]:
                shared = out.pop()
                into.pop()
            if not out or not into:
                continue
            edge = out[-1], into[-1]
            edges = self.nodes[shared].edges
            edges[edge] = edges.get(edge, 0) | flow
            for inner, outer in pairwise(out):
                self.nodes[outer].exits[inner] = self.nodes[outer].exits.get(inner, 0) | flow
            for inner, outer in pairwise(into):
                self.nodes[outer].entries[inner] = self.nodes[outer].entries.get(inner, 0) | flow

    def _total(self) -> None:
        parameters = self.map.overview.parameters
        order = [0]
        for number in order:
            order += self.nodes[number].children
        for number in reversed(order):
            node = self.nodes[number]
            for index in node.parameters:
                node.states[parameters[index].outcome] += 1
                node.elements += parameters[index].numel
            if node.parent >= 0:
                above = self.nodes[node.parent]
                above.states.update(node.states)
                above.elements += node.elements
                above.ran |= node.ran

    def _findings_at(self, location: Location | None, parameters: Iterable[int]) -> tuple[int, ...]:
        """Return the findings at the line of a cut, those about its parameters if there are any."""
        at = [
            n for n, f in enumerate(self.findings) if location and f.location and _line(f.location) == _line(location)
        ]
        names = {name for index in parameters for name in self.map.overview.parameters[index].names}
        about = [n for n in at if names.intersection(self.findings[n].parameters)]
        return tuple(about or at)

    def opened(self, most: int = 60) -> set[int]:
        """Return the boxes to open so that the first cuts are seen, and at most so many boxes."""
        nodes = self.nodes
        found = {0}
        total = len(nodes[0].children)
        wanted = [number for mark in self.marks[:LEADING] for number in reversed(self.around(mark.node)[1:])]
        roots = [child for child in nodes[0].children if nodes[child].kind == "module"]
        for number in [*(roots if len(roots) == 1 else ()), *wanted]:
            if number not in found and nodes[number].parent in found and total + len(nodes[number].children) <= most:
                found.add(number)
                total += len(nodes[number].children)
        return found


def _line(location: Location) -> tuple[str, int]:
    return location.path, location.line


def _end(node: Node, side: int) -> str:
    return node.label.split(" … ")[side] if node.kind == "group" else node.label
