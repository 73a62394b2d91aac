"""`gradlint why`: what is known about single parameters, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from gradlint.findings import Location
from gradlint.report.full import Page
from gradlint.report.text import View


class Explanation(Protocol):
    """Why one parameter trains or does not."""

    @property
    def parameter(self) -> str:
        """Its fully qualified name."""

    @property
    def state(self) -> str:
        """One or a few words: ``trains``, ``frozen``, ``starved`` …"""

    @property
    def lines(self) -> Sequence[tuple[str, Location | None]]:
        """The reasons in order, each with the place it speaks of."""


def render(explanations: Sequence[Explanation], view: View) -> str:
    """Each parameter with its state, the reasons below it, and the source lines they speak of."""
    page = Page(view)
    for explanation in explanations:
        page.gap()
        page.paragraph(explanation.state, label=f"{explanation.parameter}:", style="bold", indent=0)
        for text, location in explanation.lines:
            page.paragraph(text)
            if location:
                page.where(location, indent=4)
                page.source(location, "blue", context=0, indent=4)
    return page.text()
