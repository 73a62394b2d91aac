"""The text and the JSON of ``gradlint cost``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gradlint.flow.cost import Cost, Costs, in_bytes, in_flops
from gradlint.legible import json_text
from gradlint.report.full import Page
from gradlint.report.styled import Text
from gradlint.report.view import View, cells

COLUMNS = ("params", "grads", "optim", "activ", "fwd", "bwd-in", "bwd-w")
"""Heads of the table: the fields of `Cost`, in order."""
CELL = 8
"""Columns of the terminal for each number."""
SHOWN_DEPTH = 2
"""Levels of the module tree that are shown unless the user asks for others."""


@dataclass
class _Row:
    """A module with all that is in it."""

    name: str
    total: Cost
    children: list[_Row] = field(default_factory=list)
    alike: int = 1
    """Number of modules that the row stands for."""


def render(costs: Costs, view: View, depth: int = SHOWN_DEPTH) -> str:
    """Return the totals, the module tree down to a depth, and what could be saved."""
    page = Page(view)
    measured, total = costs.measured, costs.measured.total
    page.paragraph(costs.target, indent=0, style="bold")
    page.paragraph(costs.inputs, label="inputs:")
    page.paragraph(costs.loss, label="loss:")
    page.paragraph(", ".join(costs.optimizers) or "none", label="optimizer:")
    page.gap()
    for words, size in (
        ("parameters", total.parameters),
        ("gradients", total.gradients),
        ("optimizer state", total.optimizer),
        ("activations kept for backward", total.activations),
        ("together", total.bytes),
    ):
        page.line(f"  {words:32}{in_bytes(size):>12}{f'{size:,} B':>24}".rstrip())
    if measured.inputs_kept:
        page.paragraph(f"Backward also keeps {in_bytes(measured.inputs_kept)} of inputs and targets.")
    if measured.backwards > 1:
        page.paragraph(f"The activations of all {measured.backwards} backward passes of a step are counted together.")
    page.gap()
    for words, flops in (
        ("forward", total.forward_flops),
        ("backward, input gradients", total.input_gradient_flops),
        ("backward, weight gradients", total.weight_gradient_flops),
        ("together", total.flops),
    ):
        page.line(f"  {words:32}{in_flops(flops):>12}{f'{flops:,} FLOP':>24}".rstrip())
    page.gap()
    _table(page, costs, depth)
    for saving in costs.savings:
        page.gap()
        page.paragraph(_in_words(saving.saved), label=f"Freezing {saving.names} saves", style="bold")
        page.paragraph(f"They get gradient, and {saving.reason}.")
    page.gap()
    for note in measured.notes:
        page.paragraph(note, label="note:")
    return page.text()


def as_json(costs: Costs) -> str:
    """Return the same as JSON in ASCII: each module by itself, and with those in it."""
    measured = costs.measured
    document = {
        "schema": 1,
        "target": costs.target,
        "inputs": costs.inputs,
        "loss": costs.loss,
        "optimizers": list(costs.optimizers),
        "total": _cost(measured.total),
        "outside_modules": _cost(measured.outside),
        "inputs_kept": measured.inputs_kept,
        "backward_passes": measured.backwards,
        "modules": [
            {
                "name": row.name,
                "type": costs.types[row.name],
                "own": _cost(_own(costs, row.name)),
                "total": _cost(row.total),
            }
            for row in rows_of(costs).values()
        ],
        "savings": [
            {"reason": s.reason, "parameters": list(s.parameters), "saved": _cost(s.saved)} for s in costs.savings
        ],
        "notes": list(measured.notes),
    }
    return json_text(document)


def rows_of(costs: Costs) -> Mapping[str, _Row]:
    """Return name of a module → the module with all that is in it, parents first."""
    rows = {name: _Row(name, _own(costs, name)) for name in costs.types}
    for name in reversed(list(costs.types)):  # what is inside a module comes after it
        parent = rows.get(_parent(name, costs.types))
        if parent is not None and parent is not rows[name]:
            parent.total += rows[name].total
            parent.children.insert(0, rows[name])
    return rows


def _own(costs: Costs, name: str) -> Cost:
    return costs.measured.modules.get(name, Cost())


def _parent(name: str, names: Mapping[str, str]) -> str:
    """Return the name of the nearest module around another; its own if there is none."""
    above = name
    while above:
        above = above.rpartition(".")[0]
        if above in names:
            return above
    return name


def _cost(cost: Cost) -> dict[str, Any]:
    return {**asdict(cost), "bytes": cost.bytes, "flops": cost.flops}


def _table(page: Page, costs: Costs, depth: int) -> None:
    """Add a row for each module that costs something, and legends."""
    page.line(
        " " * (page.view.width - CELL * len(COLUMNS)), *(Text(f"{head:>{CELL}}", style="bold") for head in COLUMNS)
    )
    rows = rows_of(costs)
    tops = [row for name, row in rows.items() if _parent(name, costs.types) == name]
    for level, row in _shown(tops, 0, depth):
        _row(page, _label(row, level), row.total, level)
    if costs.measured.outside != Cost():
        _row(page, "outside the model", costs.measured.outside, 0)
    page.paragraph(
        "K, M and G are powers of 1024 for bytes and of 1000 for operations (fwd, bwd). bwd-in passes gradient on, and "
        "bwd-w is for the gradients of weights."
    )


def _shown(rows: list[_Row], level: int, depth: int) -> Iterator[tuple[int, _Row]]:
    """Yield (level, row) of the tree; numbered siblings that cost the same are one row."""
    pending = [(level, row) for row in reversed(_folded(rows))]
    while pending:
        level, row = pending.pop()
        if row.total == Cost():
            continue
        yield level, row
        if level < depth:
            pending += [(level + 1, child) for child in reversed(_folded(row.children))]


def _folded(rows: list[_Row]) -> list[_Row]:
    """Return rows in which numbered neighbours that cost the same are together."""
    runs: list[list[_Row]] = []
    for row in rows:
        last = runs[-1][-1] if runs else None
        if last is not None and last.total == row.total and _number(last).isdigit() and _number(row).isdigit():
            runs[-1].append(row)
        else:
            runs.append([row])
    return [run[0] if len(run) == 1 else _together(run) for run in runs]


def _together(run: list[_Row]) -> _Row:
    total = sum((row.total for row in run), Cost())
    return _Row(f"{run[0].name}-{_number(run[-1])}", total, [], len(run))


def _number(row: _Row) -> str:
    return row.name.rpartition(".")[2]


def _label(row: _Row, level: int) -> str:
    if not row.name:
        return "(the model)"
    name = row.name if level == 0 else _number(row)
    return name if row.alike == 1 else f"{name} ({row.alike} alike)"


def _row(page: Page, label: str, cost: Cost, level: int) -> None:
    label = "  " * (level + 1) + page.view.clean(label)
    room = page.view.width - CELL * len(COLUMNS)
    values = list(asdict(cost).values())
    numbers = [_short(v, 1024, "B") for v in values[:4]] + [_short(v, 1000, "") for v in values[4:]]
    line = "".join(f"{number:>{CELL}}" for number in numbers)
    if cells(label) > room:
        page.paragraph(label.strip(), indent=2 * (level + 1))
        label = ""
    page.line(label + " " * (room - cells(label)) + line)


def _short(number: int, base: int, unit: str) -> str:
    """Return a number for a table: ``340.2M``, ``-`` for zero."""
    if not number:
        return "-"
    size = float(number)
    for prefix in ("", "K", "M", "G", "T"):
        if size < base or prefix == "T":
            break
        size /= base
    return f"{size:.0f}{unit}" if not prefix else f"{size:.1f}{prefix}"


def _in_words(saved: Cost) -> str:
    """Return what a saving saves: ``280 B of gradients and 1.4 kFLOP per step``."""
    parts = [
        f"{in_bytes(size)} of {what}"
        for size, what in (
            (saved.activations, "activations"),
            (saved.optimizer, "optimizer state"),
            (saved.gradients, "gradients"),
        )
        if size > 0
    ]
    if saved.flops > 0:
        parts.append(f"{in_flops(saved.flops)} per step")
    return ", ".join(parts) or "nothing"
