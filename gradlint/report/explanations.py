"""`gradlint why`: what is known about single parameters, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.text import Text

from gradlint.location import Location
from gradlint.report.full import Page
from gradlint.report.view import View, cells, shown_path

STEP_WIDTH = 28
"""Columns that the text of a step may take before its place goes below it."""


class Step(Protocol):
    """One thing that is known of a parameter."""

    @property
    def text(self) -> str:
        """What it is, in a few words."""

    @property
    def location(self) -> Location | None:
        """The place it speaks of."""

    @property
    def important(self) -> bool:
        """Whether it decides what becomes of the parameter; its source is shown."""


class Section(Protocol):
    """Steps that belong together."""

    @property
    def title(self) -> str:
        """What they tell."""

    @property
    def steps(self) -> Sequence[Step]:
        """The steps in order."""


class Explanation(Protocol):
    """Why one parameter trains or does not."""

    @property
    def parameter(self) -> str:
        """Its fully qualified name."""

    @property
    def state(self) -> str:
        """What becomes of it, and why."""

    @property
    def about(self) -> str:
        """Its shape and its other names."""

    @property
    def sections(self) -> Sequence[Section]:
        """Its history, its optimizer, its way to the loss."""


def render(explanations: Sequence[Explanation], view: View) -> str:
    """Each parameter with its state, and below it the steps with the lines they speak of."""
    page = Page(view)
    for explanation in explanations:
        page.gap()
        page.paragraph(explanation.state, label=f"{explanation.parameter}:", style="bold", indent=0)
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
    place = f"{shown_path(step.location.path, view.root)}:{step.location.line}:{step.location.column}"
    column = 4 + max(STEP_WIDTH, cells(text)) + 2
    if column + cells(place) <= view.width:
        page.line(" " * 4, Text(text, style=style), " " * (column - 4 - cells(text)), Text(place, style="blue"))
    else:
        page.paragraph(text, indent=4)
        page.where(step.location, indent=6)
    if step.important:
        page.source(step.location, "yellow", context=0, indent=6)
