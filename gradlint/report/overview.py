"""The text and the JSON of ``gradlint summary``: modules or parameters with the outcome of training for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gradlint.findings import Finding, GroupState, OptimizerState, Overview, Report, TargetSummary
from gradlint.flow.outcome import OutcomeKind
from gradlint.report import as_json
from gradlint.report.full import Page
from gradlint.report.module_tree import DASH
from gradlint.report.styled import ColorSystem, Style
from gradlint.report.summary import summary
from gradlint.report.tree import Row, Totals, Tree
from gradlint.report.view import View, cells, shown_place, wrap
from gradlint.system import legible
from gradlint.wording import count, list_of, nearest, plural, shape_text

SCHEMA = 1
NARROW = 60
"""Columns below which a row is a paragraph instead of a line of a table."""
STATE_WIDTH = 22
"""Columns that the last column of a table has at least."""
LISTED = 3
"""Names, groups or findings listed in a row before the rest is counted."""

_STYLES = {
    OutcomeKind.TRAINS.value: "green",
    OutcomeKind.FROZEN.value: "blue",
    OutcomeKind.UNKNOWN.value: "dim",
}
"""Outcome → its style; the others are faults."""
_FAULT, _MIXED = "bold yellow", ""


@dataclass(frozen=True)
class Wanted:
    """What of an overview is shown."""

    depth: int | None = None
    """Levels of rows; None to open what is not uniform."""
    expand: tuple[str, ...] = ()
    """Globs of modules to unfold, with everything in them."""
    parameters: bool = False
    """True for a table of the parameters instead of the modules."""


def unmatched(overview: Overview, wanted: Wanted) -> str:
    """Return the sentence about globs that match no module; empty if all match one."""
    missing = Tree(overview, 0, wanted.expand).unmatched if wanted.expand else []
    if not missing:
        return ""
    near = nearest(missing[0], [m.name for m in overview.modules[:5000]])
    return f"no module matches {missing[0]!r}" + (f"; did you mean {near}?" if near else "")


def render(report: Report, view: View, wanted: Wanted) -> str:
    """Return the overviews of a report as text."""
    summaries = {target.target: target for target in report.targets}
    parts = []
    for overview in report.overviews:
        findings = [f for f in report.findings if f.target in (overview.target, "")]
        notes = [n.message for n in report.notes if n.target in (overview.target, "")]
        parts.append(_heading(summaries.get(overview.target), notes, view))
        if wanted.parameters:
            table, left_out = _parameters(overview, view), 0
        else:
            modules = _Modules(overview, findings, view, wanted)
            table, left_out = modules.table(), modules.left_out
        parts.append(table.text(view))
        parts.append(_closing(overview, findings, left_out, view))
    return legible.sanitized("\n".join(part for part in parts if part), color=view.color)


def _heading(target: TargetSummary | None, notes: Iterable[str], view: View) -> str:
    page = Page(view)
    if target is not None:
        page.paragraph(summary(target), label=f"{target.target}:", style="bold", indent=0, outside=True)
        page.paragraph(target.inputs, label="inputs:", style="dim")
        page.paragraph(target.loss, label="loss:", style="dim")
    for note in notes:
        page.paragraph(note, label="note:", style="cyan")
    return page.text()


def _closing(overview: Overview, findings: Sequence[Finding], left_out: int, view: View) -> str:
    page = Page(view)
    if left_out:
        hidden = plural(left_out, "module")
        page.paragraph(f"not shown: {hidden} without parameters (--expand '*' shows all)", indent=0)
    for optimizer in overview.optimizers:
        for number, group in enumerate(optimizer.groups):
            which = f", group {number}" if len(optimizer.groups) > 1 else ""
            if number >= LISTED and len(optimizer.groups) > LISTED + 1:
                rest = plural(len(optimizer.groups) - number, "more group")
                page.paragraph(f"{optimizer.label}: {rest}", indent=0)
                break
            page.paragraph(f"{optimizer.label}{which}: {_group(group)}, {plural(group.tensors, 'tensor')}", indent=0)
    if findings:
        codes = Counter(f.code for f in findings)
        listed = ", ".join(code if number == 1 else f"{number} {code}" for code, number in sorted(codes.items()))
        page.paragraph(
            f"{plural(len(findings), 'finding')}: {listed} (`gradlint check` or `run` explains them)", indent=0
        )
    every = sum(p.numel for p in overview.parameters)
    trainable = sum(p.numel for p in overview.parameters if p.outcome != OutcomeKind.FROZEN.value)
    share = 100 * trainable / every if every else 0.0
    page.paragraph(f"trainable params: {trainable:,} || all params: {every:,} || trainable%: {share:.4f}", indent=0)
    return page.text()


def _group(group: GroupState) -> str:
    decay = f", weight decay {group.weight_decay:g}" if group.weight_decay else ""
    return _rate(group) + decay


def _rate(group: GroupState) -> str:
    rate = "lr unknown" if group.lr is None else f"lr {group.lr:g}"
    return rate + (" (scheduled)" if group.scheduled else "")


# -- tables -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Line:
    """One row of a table, in text that is safe to show."""

    name: str
    cells: tuple[str, ...]
    last: str
    style: str = ""
    """The style of the last column up to the first semicolon."""
    kind: str = ""
    """What stands after the name if there is room in all lines."""


@dataclass(frozen=True)
class _Table:
    """Lines under headings. The first column is never broken, the last one wraps, those between are short."""

    headings: tuple[str, ...]
    right: bool
    """True if the columns between hold numbers."""
    lines: Sequence[_Line]

    def text(self, view: View) -> str:
        """Return the table as text of the view's width."""
        if not self.lines:
            return ""
        if view.width < NARROW:
            return "".join(f"{line}\n" for each in self.lines for line in self._paragraph(each, view))
        columns = zip(self.headings[1:-1], *(line.cells for line in self.lines), strict=True)
        between = [max(map(cells, column)) for column in columns]
        room = view.width - sum(between) - 2 * (len(between) + 1) - STATE_WIDTH
        lines = self.lines
        named = [replace(line, name=f"{line.name} {line.kind}".rstrip()) for line in lines]
        if max(cells(line.name) for line in named) <= room:
            lines = named
        longest = max(cells(text) for text in (self.headings[0], *(line.name for line in lines)))
        first = min(longest, max(room, 12))
        heading = _Line(self.headings[0], self.headings[1:-1], self.headings[-1])
        rows = [
            *self._row(heading, first, between, view, "dim"),
            *(row for line in lines for row in self._row(line, first, between, view, "")),
        ]
        return "".join(f"{row.rstrip()}\n" for row in rows)

    def _row(self, line: _Line, first: int, between: Sequence[int], view: View, whole: str) -> Iterator[str]:
        name = line.name
        if cells(name) > first:
            yield name
            name = ""
        parts = [name + " " * (first - cells(name))]
        for text, width in zip(line.cells, between, strict=True):
            pad = " " * (width - cells(text))
            parts.append(pad + text if self.right else text + pad)
        left = "  ".join(parts)
        hang = cells(left) + 2
        head, *rest = wrap(line.last, view.width - hang)
        yield _styled(left, whole, view) + "  " + _styled_to_semicolon(head, whole or line.style, view)
        for more in rest:
            yield " " * hang + more

    def _paragraph(self, line: _Line, view: View) -> Iterator[str]:
        yield line.name
        indent = min(len(line.name) - len(line.name.lstrip()) + 2, 12)
        facts = [
            f"{text} {name}" if self.right else text
            for name, text in zip(self.headings[1:-1], line.cells, strict=True)
            if text
        ]
        for text in wrap("; ".join([*facts, *([line.last] if line.last else [])]), view.width - indent):
            yield " " * indent + text


def _styled(text: str, style: str, view: View) -> str:
    if not (style and view.color and text):
        return text
    return Style.parse(style).render(text, color_system=ColorSystem.STANDARD)


def _styled_to_semicolon(text: str, style: str, view: View) -> str:
    head, semicolon, rest = text.partition(";")
    return _styled(head, style, view) + semicolon + rest


def _style(outcomes: Mapping[str, int]) -> str:
    if len(outcomes) != 1:
        return _FAULT if set(outcomes) - set(_STYLES) else _MIXED
    return _STYLES.get(next(iter(outcomes)), _FAULT)


# -- modules ----------------------------------------------------------------------------------------------------------


class _Modules:
    """The table of the modules."""

    def __init__(self, overview: Overview, findings: Iterable[Finding], view: View, wanted: Wanted) -> None:
        self._overview = overview
        self._view = view
        self._tree = Tree(overview, wanted.depth, wanted.expand)
        for finding in findings:
            self._tree.mark(finding, _place(finding))
        whole = self._tree.whole
        self._usual = [max(part, key=part.__getitem__, default="") for part in (whole.dtypes, whole.devices)]

    @property
    def left_out(self) -> int:
        """Number of modules without parameters that have no row."""
        return self._tree.left_out

    def table(self) -> _Table:
        """Return the table."""
        lines = [self._line(row) for row in self._tree.rows]
        return _Table(("module", "tensors", "params", "trainable", "state"), True, lines)

    def _line(self, row: Row) -> _Line:
        totals = row.totals
        label = row.label if self._view.char(DASH) == DASH else row.label.replace(DASH, "-")
        name = "  " * min(row.depth, 20) + self._view.clean(label)
        figures = (f"{totals.tensors:,}", count(totals.elements), _share(totals)) if totals.tensors else ("", "", "")
        parts = [p for p in (self._state(row), *self._modes(row), *self._kinds(row), *self._found(row)) if p]
        kind = "" if row.label == f"({row.type})" else self._view.clean(row.type)
        return _Line(name, figures, self._view.clean("; ".join(parts)), _style(totals.outcomes), kind)

    def _state(self, row: Row) -> str:
        outcomes = row.totals.outcomes
        if not outcomes:
            return f"tied to {list_of(row.tied, LISTED)}" if row.tied else ""
        if len(outcomes) > 1:
            counts = ((kind, outcomes[kind.value]) for kind in OutcomeKind)
            return "mixed: " + ", ".join(f"{number} {kind.plural}" for kind, number in counts if number)
        [outcome] = outcomes
        held = self._held(row.totals)
        return f"{outcome}, {held}" if held else outcome

    def _held(self, totals: Totals) -> str:
        """Return the optimizer of parameters, with groups and learning rate; else their optimizers."""
        optimizers = self._overview.optimizers
        numbers = sorted({number for number, _ in totals.groups})
        if len(numbers) > 1:
            return list_of([optimizers[number].label for number in numbers], LISTED)
        return _in_groups(optimizers[numbers[0]], sorted(g for _, g in totals.groups)) if numbers else ""

    def _modes(self, row: Row) -> Iterator[str]:
        """Yield the modes of the layers in a row that no row below shows."""
        for kind in ("norm", "dropout"):
            train, evaluating = row.hidden[kind, True], row.hidden[kind, False]
            if train and evaluating:
                yield f"{kind}: {train} train, {evaluating} eval"
            elif train or evaluating:
                yield f"{kind} {'train' if train else 'eval'}"

    def _kinds(self, row: Row) -> Iterator[str]:
        """Yield the data types and devices that differ from those of most parameters."""
        if not row.is_closed and len(row.totals.dtypes) < 2 and len(row.totals.devices) < 2:
            return
        for part, usual in zip((row.totals.dtypes, row.totals.devices), self._usual, strict=True):
            others = [name for name in part if name != usual]
            if others and (row.is_closed or len(part) == 1):
                yield list_of(sorted(part) if len(part) > 1 else others, LISTED)

    def _found(self, row: Row) -> Iterator[str]:
        if row.findings:
            yield list_of(row.findings, LISTED)


def _in_groups(optimizer: OptimizerState, groups: Sequence[int]) -> str:
    rates = {(optimizer.groups[g].lr, optimizer.groups[g].scheduled) for g in groups}
    text = optimizer.label
    if len(rates) > 1:  # each group with its own rate: two lists side by side do not say what belongs together
        return f"{text} {list_of([f'group {g} {_rate(optimizer.groups[g])}' for g in groups], LISTED)}"
    if len(optimizer.groups) > 1:
        text += f" group {groups[0]}" if len(groups) == 1 else f" groups {list_of([str(g) for g in groups], LISTED)}"
    [(rate, scheduled)] = rates
    return text if rate is None else f"{text} lr {rate:g}" + (" (scheduled)" if scheduled else "")


def _share(totals: Totals) -> str:
    share = 100 * totals.trainable / totals.elements if totals.elements else 0.0
    if 0 < share < 0.1 or 99.9 < share < 100:
        return f"{share:.4f}%" if 0.0001 <= share <= 99.9999 else "<0.0001%" if share < 1 else ">99.9999%"
    return f"{share:.1f}%".replace(".0%", "%")


def _place(finding: Finding) -> str:
    if finding.location is None:
        return finding.code
    where = shown_place(finding.location, Path(finding.location.path).parent, column=False)
    return f"{finding.code} at {where}"


# -- parameters -------------------------------------------------------------------------------------------------------


def _parameters(overview: Overview, view: View) -> _Table:
    lines = []
    for p in overview.parameters:
        held = [_in_groups(overview.optimizers[number], [group]) for number, group in p.groups]
        names = [f"also {name}" for name in p.names[1:]]
        state = view.clean("; ".join([", ".join([p.outcome, *held]), *names]))
        lines.append(
            _Line(view.clean(p.name), (shape_text(p.shape), str(p.requires_grad)), state, _style({p.outcome: 1}))
        )
    return _Table(("parameter", "shape", "requires_grad", "state"), False, lines)


# -- JSON -------------------------------------------------------------------------------------------------------------


def document(report: Report, root: Path) -> dict[str, Any]:
    """Return the overviews of a report as plain dicts and lists."""
    whole = as_json.document(report, root)
    return {
        "schema": SCHEMA,
        "targets": [_target(overview) for overview in report.overviews],
        "findings": whole["findings"],
        "errors": whole["errors"],
        "notes": whole["notes"],
    }


def _target(overview: Overview) -> dict[str, Any]:
    tree = Tree(overview, 0)
    return {
        "target": overview.target,
        "totals": _totals(tree.whole),
        "optimizers": [
            {
                "name": optimizer.label,
                "groups": [
                    {
                        "lr": group.lr,
                        "weight_decay": group.weight_decay,
                        "scheduled": group.scheduled,
                        "tensors": group.tensors,
                    }
                    for group in optimizer.groups
                ],
            }
            for optimizer in overview.optimizers
        ],
        "modules": [
            {
                "name": module.name,
                "parent": module.parent,
                "type": module.type,
                "mode": "train" if module.training else "eval",
                "totals": _totals(totals),
                "tied": [overview.parameters[i].name for i in module.tied],
            }
            for module, totals in zip(overview.modules, tree.totals, strict=True)
        ],
        "parameters": [
            {
                "name": p.name,
                "names": list(p.names),
                "shape": list(p.shape),
                "parameters": p.numel,
                "requires_grad": p.requires_grad,
                "state": p.outcome,
                "groups": [list(group) for group in p.groups],
                "dtype": p.dtype,
                "device": p.device,
            }
            for p in overview.parameters
        ],
    }


def _totals(totals: Totals) -> dict[str, Any]:
    return {
        "tensors": totals.tensors,
        "parameters": totals.elements,
        "trainable": totals.trainable,
        "states": dict(totals.outcomes),
        "groups": [list(group) for group in sorted(totals.groups)],
        "modes": {
            kind: {"train": totals.modes[kind, True], "eval": totals.modes[kind, False]} for kind in ("norm", "dropout")
        },
        "dtypes": dict(totals.dtypes),
        "devices": dict(totals.devices),
    }
