"""The module tree of an overview as rows: repeated blocks folded, uniform subtrees closed."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from gradlint.findings import Finding, Overview, ParameterState
from gradlint.report.module_tree import ModuleTree, Run

OPEN = 2
"""Levels of the tree that are shown in any case."""
FROZEN = "frozen"
"""Outcome of parameters that require no gradient."""


@dataclass
class Totals:
    """Counts over the parameters and the modules of a subtree."""

    tensors: int = 0
    elements: int = 0
    trainable: int = 0
    """Elements of the parameters that require gradient."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Outcome → number of tensors."""
    groups: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(optimizer, group) → number of tensors."""
    modes: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """(``norm`` or ``dropout``, True in train mode) → number of layers."""
    dtypes: Counter[str] = field(default_factory=Counter)
    devices: Counter[str] = field(default_factory=Counter)

    def add_parameter(self, parameter: ParameterState) -> None:
        """Count a parameter."""
        self.tensors += 1
        self.elements += parameter.numel
        self.trainable += parameter.numel if parameter.outcome != FROZEN else 0
        self.outcomes[parameter.outcome] += 1
        self.groups.update(parameter.groups)
        self.dtypes[parameter.dtype] += 1
        self.devices[parameter.device] += 1

    def add(self, other: Totals) -> None:
        """Count what other totals count."""
        self.tensors += other.tensors
        self.elements += other.elements
        self.trainable += other.trainable
        self.outcomes.update(other.outcomes)
        self.groups.update(other.groups)
        self.modes.update(other.modes)
        self.dtypes.update(other.dtypes)
        self.devices.update(other.devices)

    @property
    def is_uniform(self) -> bool:
        """True if all parameters have one outcome, group, dtype and device, and all layers of a kind one mode."""
        parts = (self.outcomes, self.groups, self.dtypes, self.devices)
        return all(len(part) < 2 for part in parts) and len({kind for kind, _ in self.modes}) == len(self.modes)


@dataclass
class Row:
    """One row: a module, or repeated modules that are alike."""

    label: str
    """Its name below the row above; `DASH` is between the numbers of repeated modules."""
    depth: int
    above: int
    """Position of the row above it; -1 for a root."""
    type: str
    members: tuple[int, ...]
    """Positions of its modules."""
    totals: Totals
    hidden: Counter[tuple[str, bool]] = field(default_factory=Counter)
    """The modes of its layers that no row below shows."""
    tied: tuple[str, ...] = ()
    """Names under which its own tied parameters are counted."""
    findings: list[str] = field(default_factory=list)
    """The findings about it: ``GL401 at model.py:41``."""
    is_closed: bool = True
    """True if no rows below it are shown."""


class Tree:
    """The tree of an overview, with totals and folds.

    Args:
        overview: the modules and parameters.
        depth: levels of rows to show; None to open the first ones, and below them what is not uniform.
        expand: globs of modules; everything below them is shown, and they are not folded.
    """

    def __init__(self, overview: Overview, depth: int | None = None, expand: Sequence[str] = ()) -> None:
        self._overview = overview
        self._depth = depth
        modules = overview.modules
        self._tree = ModuleTree([m.name for m in modules], [m.parent for m in modules], self._facts())
        self.totals = self._counted()
        self.whole = self._sum(self._tree.roots)
        self._empty = self._without_parameters()
        self.unmatched = self._expand(expand)
        self.row_of = [-1] * len(modules)
        """Position of a module → position of the row that shows it, or the one around it."""
        self.rows: list[Row] = []
        self._build()
        self.left_out = sum(e and row < 0 for e, row in zip(self._empty, self.row_of, strict=True))
        """Number of modules without parameters that have no row."""
        for position, module in enumerate(modules):
            if self.row_of[position] < 0 and module.parent >= 0:
                self.row_of[position] = self.row_of[module.parent]

    def _counted(self) -> list[Totals]:
        modules, parameters = self._overview.modules, self._overview.parameters
        totals = [Totals() for _ in modules]
        for position in range(len(modules) - 1, -1, -1):
            module, own = modules[position], totals[position]
            for index in module.parameters:
                own.add_parameter(parameters[index])
            if module.by_mode:
                own.modes[module.by_mode, module.training] += 1
            if module.parent >= 0:
                totals[module.parent].add(own)
        return totals

    def _sum(self, positions: Sequence[int]) -> Totals:
        if len(positions) == 1:
            return self.totals[positions[0]]
        total = Totals()
        for position in positions:
            total.add(self.totals[position])
        return total

    def _facts(self) -> Iterator[tuple[object, ...]]:
        """Yield what each module has itself."""
        overview = self._overview
        effects = [
            [(n, g.lr, g.weight_decay, g.scheduled) for g in o.groups] for n, o in enumerate(overview.optimizers)
        ]

        def state(p: ParameterState, module: str) -> tuple[object, ...]:
            groups = tuple(effects[number][group] for number, group in p.groups)
            return p.name[len(module) :], p.shape, p.outcome, p.requires_grad, groups, p.dtype, p.device

        for module in overview.modules:
            states = tuple(state(overview.parameters[index], module.name) for index in module.parameters)
            mode = (module.by_mode, module.training) if module.by_mode else None
            yield module.class_number, mode, states, module.tied

    def _without_parameters(self) -> list[bool]:
        """Return True for each module without parameters, in the order of the modules."""
        modules = self._overview.modules
        empty = [not (self.totals[p].tensors or m.tied) for p, m in enumerate(modules)]
        for position in range(len(modules) - 1, -1, -1):
            if not empty[position] and modules[position].parent >= 0:
                empty[modules[position].parent] = False
        return empty

    def _expand(self, globs: Sequence[str]) -> list[str]:
        """Note the modules to open; return the globs that match none."""
        modules = self._overview.modules
        self._expanded = [False] * len(modules)
        """True for the modules that a glob matches, and those in them."""
        self._around = [False] * len(modules)
        """True for the modules around those."""
        unmatched = []
        for glob in globs:
            matches = re.compile(fnmatch.translate(glob)).match
            found = [p for p, module in enumerate(modules) if matches(module.name) or module.name == glob]
            if not found:
                unmatched.append(glob)
            for position in found:
                self._expanded[position] = True
        for position, module in enumerate(modules):
            self._expanded[position] |= module.parent >= 0 and self._expanded[module.parent]
        for position in range(len(modules) - 1, -1, -1):
            if (self._expanded[position] or self._around[position]) and modules[position].parent >= 0:
                self._around[modules[position].parent] = True
        return unmatched

    def _build(self) -> None:
        """Make the rows, each before those below it."""
        modules = self._overview.modules
        pending = [(Run((p,), modules[p].name or f"({modules[p].type})"), 0, -1) for p in reversed(self._tree.roots)]
        while pending:
            run, depth, above = pending.pop()
            number = len(self.rows)
            self._place(run, number)
            runs = self._below(run)
            while len(runs) == 1 and depth and self._only_leads_on(run.members[0]):
                run = Run(runs[0].members, _joined(run.label, runs[0].label))
                self._place(run, number)
                runs = self._below(run)
            row = self._row(run, depth, above, has_rows_below=bool(runs))
            self.rows.append(row)
            if above >= 0:
                self.rows[above].hidden.subtract(row.totals.modes)
            if not row.is_closed:
                pending += [(inner, depth + 1, number) for inner in reversed(runs)]
                self._add_own(row, number)

    def _below(self, run: Run) -> list[Run]:
        return self._tree.below(
            run,
            is_left_out=lambda position: self._empty[position] and not self._expanded[position],
            stands_alone=lambda position: self._expanded[position] or self._around[position],
        )

    def _row(self, run: Run, depth: int, above: int, *, has_rows_below: bool) -> Row:
        """Return the row of a run."""
        first = run.members[0]
        module, totals = self._overview.modules[first], self._sum(run.members)
        return Row(
            label=run.label or f"({module.type})",
            depth=depth,
            above=above,
            type=module.type,
            members=run.members,
            totals=totals,
            hidden=Counter(totals.modes),
            tied=tuple(self._overview.parameters[index].name for index in module.tied),
            is_closed=not has_rows_below or not self._is_open(first, depth, totals),
        )

    def _add_own(self, row: Row, above: int) -> None:
        """Add a row for the parameters that the modules of an open row register themselves."""
        overview = self._overview
        own = [overview.parameters[i] for member in row.members for i in overview.modules[member].parameters]
        if not own:
            return
        totals = Totals()
        for parameter in own:
            totals.add_parameter(parameter)
        first = own[: len(own) // len(row.members)]
        names = [parameter.name.rpartition(".")[2] for parameter in first]
        label = names[0] if len(names) == 1 else f"({len(names)} parameters)"
        self.rows.append(Row(label, row.depth + 1, above, "", (), totals))

    def _place(self, run: Run, row: int) -> None:
        for member in run.members:
            self.row_of[member] = row

    def _is_open(self, position: int, depth: int, totals: Totals) -> bool:
        if self._expanded[position] or self._around[position]:
            return True
        return depth < self._depth if self._depth is not None else depth < OPEN or not totals.is_uniform

    def _only_leads_on(self, position: int) -> bool:
        """Return True if a module has nothing of its own that a row could show."""
        module = self._overview.modules[position]
        return not (module.parameters or module.tied or module.by_mode or self._expanded[position])

    def mark(self, finding: Finding, text: str) -> None:
        """Add a finding to the widest rows that it names whole, else to those of its parameters."""
        own = Counter(self.row_of[m] for name in set(finding.parameters) if (m := self._module_of.get(name, -1)) >= 0)
        own.pop(-1, None)
        named = Counter(own)
        pending = [-row for row in own]
        heapq.heapify(pending)
        while pending:  # rows below come before those above them
            row = -heapq.heappop(pending)
            above = self.rows[row].above
            if above >= 0:
                if above not in named:
                    heapq.heappush(pending, -above)
                named[above] += named[row]
        for row, number in named.items():
            above = self.rows[row].above
            is_whole = number == self.rows[row].totals.tensors
            is_in_whole = above >= 0 and named[above] == self.rows[above].totals.tensors
            if (is_whole and not is_in_whole) or (row in own and not is_whole):
                if text not in self.rows[row].findings:
                    self.rows[row].findings.append(text)

    @cached_property
    def _module_of(self) -> dict[str, int]:
        """Name of a parameter → position of the module that it is counted in."""
        overview = self._overview
        return {
            name: position
            for position, module in enumerate(overview.modules)
            for index in module.parameters
            for name in overview.parameters[index].names
        }


def _joined(label: str, inner: str) -> str:
    return f"{label}.{inner}" if label and inner else label or inner
