"""The text and the JSON of ``gradlint cost``."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import asdict
from typing import Any

from gradlint.findings import Finding
from gradlint.flow.cost import Cost, Costs, in_bytes, in_flops, saved_in_words
from gradlint.report.full import Page
from gradlint.report.module_tree import DASH, ModuleTree, Run
from gradlint.report.styled import Text
from gradlint.report.view import View, cells, shown_place
from gradlint.system.legible import json_text

COLUMNS = ("params", "grads", "optim", "activ", "fwd", "bwd-in", "bwd-w")
"""Heads of the table: the fields of `Cost`, in order."""
CELL = 8
"""Columns of the terminal for each number."""
SHOWN_DEPTH = 2
"""Levels of the module tree that are shown unless the user asks for others."""


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
    table(page, costs, depth)
    for saving in costs.savings:
        page.gap()
        page.paragraph(f"{saved_in_words(saving.saved)}.", label=f"Freezing {saving.names} saves", style="bold")
        found = _found(saving.finding, view) if saving.finding is not None else ""
        page.paragraph(f"They get gradient, and {saving.reason}{found}.")
    page.gap()
    for note in measured.notes:
        page.paragraph(note, label="note:")
    return page.text()


def as_json(costs: Costs) -> str:
    """Return the same as JSON in ASCII."""
    return json_text(content(costs))


def content(costs: Costs) -> dict[str, Any]:
    """Return the same as plain dicts and lists: each module by itself, and with those in it."""
    measured, tree = costs.measured, _tree(costs)
    return {
        "schema": 1,
        "target": costs.target,
        "inputs": costs.inputs,
        "loss": costs.loss,
        "optimizers": list(costs.optimizers),
        "total": numbers(measured.total),
        "outside_modules": numbers(measured.outside),
        "inputs_kept": measured.inputs_kept,
        "backward_passes": measured.backwards,
        "modules": [
            {"name": name, "type": costs.types[name], "own": numbers(_own(costs, name)), "total": numbers(total)}
            for name, total in zip(tree.names, _totals(costs, tree), strict=True)
        ],
        "savings": [
            {
                "reason": s.reason,
                "parameters": list(s.parameters),
                "saved": numbers(s.saved),
                "finding": _place(s.finding),
            }
            for s in costs.savings
        ],
        "notes": list(measured.notes),
    }


def _place(finding: Finding | None) -> dict[str, Any] | None:
    """Return the rule and the line of a finding."""
    if finding is None:
        return None
    where = finding.location
    return {"code": finding.code, "path": where.path if where else "", "line": where.line if where else 0}


def _found(finding: Finding, view: View) -> str:
    where = finding.location
    place = f" at {shown_place(where, view.root, column=False)}" if where else ""
    return f" ({finding.code}{place})"


def _tree(costs: Costs) -> ModuleTree:
    """Return the modules of a report."""
    positions = {name: position for position, name in enumerate(costs.types)}
    parents = [-1 if (above := _parent(name, positions)) is None else positions[above] for name in positions]
    return ModuleTree(list(costs.types), parents, ((kind, _own(costs, name)) for name, kind in costs.types.items()))


def _parent(name: str, names: Container[str]) -> str | None:
    """Return the name of the nearest module around another; None if there is none."""
    while name:
        name = name.rpartition(".")[0]
        if name in names:
            return name
    return None


def _totals(costs: Costs, tree: ModuleTree) -> list[Cost]:
    """Return the cost of each module with all that is in it, in the order of the tree."""
    totals = [_own(costs, name) for name in tree.names]
    for position in range(len(totals) - 1, -1, -1):
        if (parent := tree.parents[position]) >= 0:
            totals[parent] += totals[position]
    return totals


def _own(costs: Costs, name: str) -> Cost:
    return costs.measured.modules.get(name, Cost())


def numbers(cost: Cost) -> dict[str, Any]:
    """Return a cost with its sums as a plain dict."""
    return {**asdict(cost), "bytes": cost.bytes, "flops": cost.flops}


def table(page: Page, costs: Costs, depth: int, *, signed: bool = False) -> None:
    """Add a row for each module that costs something, and legends; differences have signs."""
    page.line(
        " " * (page.view.width - CELL * len(COLUMNS)), *(Text(f"{head:>{CELL}}", style="bold") for head in COLUMNS)
    )
    for level, label, cost in _rows(costs, depth):
        _row(page, label, cost, level, signed)
    if costs.measured.outside != Cost():
        _row(page, "outside the model", costs.measured.outside, 0, signed)
    page.paragraph(
        "K, M and G are powers of 1024 for bytes and of 1000 for operations (fwd, bwd). bwd-in passes gradient on, and "
        "bwd-w is for the gradients of weights."
    )


def _rows(costs: Costs, depth: int) -> Iterator[tuple[int, str, Cost]]:
    """Yield (level, label, cost) of each row; modules that cost nothing have none."""
    tree = _tree(costs)
    totals = _totals(costs, tree)
    pending = [(0, 1, Run((root,), tree.names[root] or "(the model)")) for root in reversed(tree.roots)]
    while pending:
        level, around, run = pending.pop()
        total = sum((totals[member] for member in run.members), Cost())
        if total == Cost():
            continue
        alike = len(run.members) // around
        yield level, run.label if alike == 1 else f"{run.label} ({alike} alike)", total
        if level < depth:
            pending += [(level + 1, len(run.members), inner) for inner in reversed(tree.below(run))]


def _row(page: Page, label: str, cost: Cost, level: int, signed: bool) -> None:
    if page.view.char(DASH) != DASH:
        label = label.replace(DASH, "-")
    label = "  " * (level + 1) + page.view.clean(label)
    room = page.view.width - CELL * len(COLUMNS)
    values = list(asdict(cost).values())
    shown = [_short(v, 1024, "B", signed) for v in values[:4]] + [_short(v, 1000, "", signed) for v in values[4:]]
    line = "".join(f"{number:>{CELL}}" for number in shown)
    if cells(label) > room:
        page.paragraph(label.strip(), indent=2 * (level + 1))
        label = ""
    page.line(label + " " * (room - cells(label)) + line)


def _short(number: int, base: int, unit: str, signed: bool) -> str:
    """Return a number for a table: ``340.2M``, ``-`` for zero; of a difference ``+1.5K``."""
    if not number:
        return "-"
    sign = "-" if number < 0 else "+" if signed else ""
    size = float(abs(number))
    for prefix in ("", "K", "M", "G", "T"):
        if size < base or prefix == "T":
            break
        size /= base
    return sign + (f"{size:.0f}{unit}" if not prefix else f"{size:.1f}{prefix}")
