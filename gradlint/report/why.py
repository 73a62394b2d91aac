"""The text of ``gradlint why``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gradlint.report.explanation import Explanation, Step
from gradlint.report.full import Page
from gradlint.report.styled import Text
from gradlint.report.view import View, cells, shown_path, shown_place
from gradlint.system.legible import json_text
from gradlint.wording import fold_names

STEP_WIDTH = 28
"""Columns that the text of a step may take before its location goes below it."""


def render(explanations: Sequence[Explanation], view: View) -> str:
    """Return the parameters with their state, and below them the steps with their source lines.

    Parameters of one state and the same steps share them.
    """
    page = Page(view)
    for group in _groups(explanations):
        explanation, names = group[0], ", ".join(fold_names([each.parameter for each in group]))
        page.gap()
        page.paragraph(explanation.state, label=f"{names}:", style="bold", indent=0, outside=True)
        page.paragraph("; ".join(dict.fromkeys(each.about for each in group)))
        for section in explanation.sections:
            page.paragraph(section.title + ":")
            for step in section.steps:
                _step(page, step)
    return page.text()


def as_json(explanations: Sequence[Explanation], root: Path) -> str:
    """Return the same as JSON in ASCII, each parameter by itself."""
    content = [
        {
            "parameter": explanation.parameter,
            "state": explanation.state,
            "about": explanation.about,
            "sections": [
                {"title": section.title, "steps": [_content(step, root) for step in section.steps]}
                for section in explanation.sections
            ],
        }
        for explanation in explanations
    ]
    return json_text({"schema": 1, "parameters": content})


def _content(step: Step, root: Path) -> dict[str, Any]:
    where = step.location
    path = shown_path(where.path, root) if where else ""
    return {"text": step.text, "path": path, "line": where.line if where else 0, "important": step.important}


def _groups(explanations: Sequence[Explanation]) -> list[list[Explanation]]:
    """Return explanations in groups of the same state and steps, in order."""
    groups: dict[object, list[Explanation]] = {}
    for each in explanations:
        told = each.state, tuple((section.title, tuple(section.steps)) for section in each.sections)
        groups.setdefault(told, []).append(each)
    return list(groups.values())


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
