"""The text and the JSON of ``gradlint cost --compare``: two targets side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gradlint.flow.cost import Cost, Costs, in_bytes, in_flops
from gradlint.report import cost
from gradlint.report.full import Page
from gradlint.report.view import View
from gradlint.system.legible import json_text

CELL = 14
"""Columns for the number of each target, and for the difference."""
_BYTES = (
    ("parameters", "parameters"),
    ("gradients", "gradients"),
    ("optimizer state", "optimizer"),
    ("activations kept for backward", "activations"),
    ("together", "bytes"),
)
_FLOPS = (
    ("forward", "forward_flops"),
    ("backward, input gradients", "input_gradient_flops"),
    ("backward, weight gradients", "weight_gradient_flops"),
    ("together", "flops"),
)


def render(before: Costs, after: Costs, view: View, depth: int = cost.SHOWN_DEPTH) -> str:
    """Return both totals with their differences, and the modules that cost more or less."""
    page = Page(view)
    page.paragraph(before.target, label="A", style="bold", indent=0)
    page.paragraph(after.target, label="B", style="bold", indent=0)
    for words, one, other in (
        ("inputs", before.inputs, after.inputs),
        ("loss", before.loss, after.loss),
        ("optimizer", ", ".join(before.optimizers), ", ".join(after.optimizers)),
    ):
        page.paragraph(one if one == other else f"A {one or 'none'}; B {other or 'none'}", label=f"{words}:")
    page.gap()
    first, second = before.measured.total, after.measured.total
    page.line(" " * 32, *(f"{head:>{CELL}}" for head in ("A", "B", "B - A")))
    _rows(page, first, second, _BYTES, in_bytes)
    page.gap()
    _rows(page, first, second, _FLOPS, in_flops)
    page.gap()
    changes = difference(before, after)
    if any(change != Cost() for change in (*changes.measured.modules.values(), changes.measured.outside)):
        cost.table(page, changes, depth, signed=True)
    else:
        page.paragraph("Both cost the same in every module.", indent=0)
    for letter, costs in (("A", before), ("B", after)):
        for note in costs.measured.notes:
            page.paragraph(note, label=f"note on {letter}:")
    return page.text()


def as_json(before: Costs, after: Costs) -> str:
    """Return both reports as in JSON of one target, and the difference of their totals."""
    change = after.measured.total - before.measured.total
    both = {"a": cost.content(before), "b": cost.content(after)}
    return json_text({"schema": 1, **both, "difference": cost.numbers(change)})


def difference(before: Costs, after: Costs) -> Costs:
    """Return what each module of two targets costs more in the second."""
    one, other = before.measured, after.measured
    types = {**before.types, **after.types}
    order = [*after.types, *(name for name in before.types if name not in after.types)]
    changes = {name: other.modules.get(name, Cost()) - one.modules.get(name, Cost()) for name in order}
    measured = replace(other, modules=changes, outside=other.outside - one.outside)
    return replace(after, types={name: types[name] for name in order}, measured=measured)


def _rows(
    page: Page, one: Cost, other: Cost, rows: tuple[tuple[str, str], ...], in_words: Callable[[int], str]
) -> None:
    for words, field in rows:
        before, after = getattr(one, field), getattr(other, field)
        change = after - before
        sign = "+" if change > 0 else "-" if change else ""
        share = f"{100 * change / before:+.0f}%" if before and change else ""
        cells = (in_words(before), in_words(after), f"{sign}{in_words(abs(change))}" if change else "-")
        page.line(f"  {words:30}" + "".join(f"{cell:>{CELL}}" for cell in cells) + f"{share:>6}".rstrip())
