"""The module tree of an overview as rows: repeated blocks folded, subtrees that are all alike closed."""

from __future__ import annotations

import fnmatch
import heapq
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from gradlint.findings import Finding, Overview, ParameterState

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


@dataclass(frozen=True)
class _Run:
    """Modules that one row shows."""

    members: tuple[int, ...]
    label: str
    depth: int = 0
    above: int = -1


DASH = "\u2013"
"""Between the first and the last number of repeated blocks."""
_NUMBERED = re.compile(r"(.*?)(0|[1-9][0-9]{0,8})", re.DOTALL)


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
        self._children: list[list[int]] = [[] for _ in modules]
        for position, module in enumerate(modules):
            if module.parent >= 0:
                self._children[module.parent].append(position)
        self.totals = self._counted()
        self.whole = self._sum(p for p, module in enumerate(modules) if module.parent < 0)
        self._alike = self._classes()
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

    def _sum(self, positions: Iterable[int]) -> Totals:
        positions = tuple(positions)
        if len(positions) == 1:
            return self.totals[positions[0]]
        total = Totals()
        for position in positions:
            total.add(self.totals[position])
        return total

    def _classes(self) -> list[int]:
        """Return a number for each module, the same for those with the same subtree and states."""
        overview = self._overview
        effects = [
            [(n, g.lr, g.weight_decay, g.scheduled) for g in o.groups] for n, o in enumerate(overview.optimizers)
        ]
        known: dict[object, int] = {}
        alike = [0] * len(overview.modules)

        def state(index: int, module: str) -> tuple[object, ...]:
            p = overview.parameters[index]
            groups = tuple(effects[number][group] for number, group in p.groups)
            return p.name[len(module) :], p.shape, p.outcome, p.requires_grad, groups, p.dtype, p.device

        for position in range(len(overview.modules) - 1, -1, -1):
            module = overview.modules[position]
            key = (
                module.class_number,
                module.by_mode,
                module.training if module.by_mode else None,
                tuple(state(index, module.name) for index in module.parameters),
                module.tied,
                tuple((_relative(overview.modules[c].name, module.name), alike[c]) for c in self._children[position]),
            )
            alike[position] = known.setdefault(key, len(known))
        return alike

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
        roots = [p for p, module in enumerate(modules) if module.parent < 0]
        pending = [_Run((p,), modules[p].name or f"({modules[p].type})", 0, -1) for p in reversed(roots)]
        while pending:
            run = pending.pop()
            self._place(run.members, len(self.rows))
            runs = self._below(run)
            while len(runs) == 1 and run.depth and self._only_leads_on(run.members[0]):
                [inner] = runs
                run = replace(run, members=inner.members, label=_joined(run.label, inner.label))
                self._place(run.members, len(self.rows))
                runs = self._below(run)
            totals = self._sum(run.members)
            row = Row(
                label=run.label or f"({modules[run.members[0]].type})",
                depth=run.depth,
                above=run.above,
                type=modules[run.members[0]].type,
                members=run.members,
                totals=totals,
                hidden=Counter(totals.modes),
                tied=tuple(self._overview.parameters[i].name for i in modules[run.members[0]].tied),
                is_closed=not runs or not self._is_open(run.members[0], run.depth, totals),
            )
            if run.above >= 0:
                self.rows[run.above].hidden.subtract(totals.modes)
            self.rows.append(row)
            if not row.is_closed:
                pending += [replace(r, depth=run.depth + 1, above=len(self.rows) - 1) for r in reversed(runs)]
                self._add_own(row, len(self.rows) - 1)

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

    def _place(self, members: Iterable[int], row: int) -> None:
        for member in members:
            self.row_of[member] = row

    def _is_open(self, position: int, depth: int, totals: Totals) -> bool:
        if self._expanded[position] or self._around[position]:
            return True
        return depth < self._depth if self._depth is not None else depth < OPEN or not totals.is_uniform

    def _only_leads_on(self, position: int) -> bool:
        """Return True if a module has nothing of its own that a row could show."""
        module = self._overview.modules[position]
        return not (module.parameters or module.tied or module.by_mode or self._expanded[position])

    def _below(self, run: _Run) -> list[_Run]:
        """Return the runs of modules in those of a run; modules of a run have the same subtree."""
        modules = self._overview.modules
        above = modules[run.members[0]].name
        runs: list[tuple[list[int], str]] = []
        last: tuple[str, int, int] | None = None
        first = 0
        for place, child in enumerate(self._children[run.members[0]]):
            if self._empty[child] and not self._expanded[child]:
                continue
            members = [self._children[member][place] for member in run.members]
            name = _relative(modules[child].name, above)
            numbered = _NUMBERED.fullmatch(name)
            if numbered is None or self._expanded[child] or self._around[child]:
                runs.append((members, name))
                last = None
                continue
            prefix, number, kind = numbered[1], int(numbered[2]), self._alike[child]
            if last == (prefix, number - 1, kind):
                so_far = runs.pop()[0]
                so_far += members
                runs.append((so_far, f"{prefix}{first}{DASH}{number}"))
            else:
                first = number
                runs.append((members, name))
            last = prefix, number, kind
        return [_Run(tuple(members), label) for members, label in runs]

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


def _relative(name: str, above: str) -> str:
    """Return a name without that of the module around it; empty if a wrapper gives it none."""
    if not above:
        return name
    return name[len(above) + 1 :] if name.startswith(f"{above}.") else "" if name == above else name


def _joined(label: str, inner: str) -> str:
    return f"{label}.{inner}" if label and inner else label or inner
