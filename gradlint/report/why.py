"""The text of ``gradlint why``."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.report.explanation import Explanation, Step
from gradlint.report.full import Page
from gradlint.report.styled import Text
from gradlint.report.view import View, cells, shown_place

STEP_WIDTH = 28
"""Columns that the text of a step may take before its location goes below it."""


def render(explanations: Sequence[Explanation], view: View) -> str:
    """Return each parameter with its state, and below it the steps with their source lines."""
    page = Page(view)
    for explanation in explanations:
        page.gap()
        page.paragraph(explanation.state, label=f"{explanation.parameter}:", style="bold", indent=0, outside=True)
        page.paragraph(explanation.about)
        for section in explanation.sections:
            page.paragraph(section.title + ":")
            for step in section.steps:
                _step(page, step)
    return page.text()


def _step(page: Page, step: Step) -> None:
    view, style = page.view, "bold yellow" if step.important else ""
    text = view.clean(step.text)
    if step.location is None:
        page.paragraph(text, indent=4)
        return
    place = view.clean(shown_place(step.location, view.root))
    column = 4 + max(STEP_WIDTH, cells(text)) + 2
    if column + cells(place) <= view.width:
        page.line(" " * 4, Text(text, style=style), " " * (column - 4 - cells(text)), Text(place, style="blue"))
    else:
        page.paragraph(text, indent=4)
        page.where(step.location, indent=6)
    if step.important:
        page.source(step.location, "yellow", context=0, indent=6)
