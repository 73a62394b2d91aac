"""Reports, summaries and traces as print() and notebooks show them."""

from __future__ import annotations

import os
import shutil
from html import escape
from pathlib import Path
from typing import Any, TextIO

from gradlint.findings import GradientMap, Report, Summary
from gradlint.report import as_json as json_format
from gradlint.report import full, html, overview
from gradlint.report.full import Page
from gradlint.report.map import render
from gradlint.report.map.text import mermaid
from gradlint.report.view import View
from gradlint.system.legible import json_text
from gradlint.system.shown import Shown
from gradlint.traces.trace import Trace
from gradlint.wording import plural, tensors

WIDTH = 80
"""Columns of a text that goes to no terminal."""


def text(shown: Shown, stream: TextIO | None = None) -> str:
    """Return an object as the command line shows it, for a stream or as plain text."""
    view = View(root=Path.cwd()) if stream is None else _view_of(stream)
    match shown:
        case Report():
            return full.render(shown, view)
        case Summary():
            return overview.render(shown.report, view, overview.Wanted()) + full.failures(shown.report, view)
        case GradientMap():
            maps = [mermaid(one, shown.report.findings, view) for one in shown.report.maps]
            return "".join(maps) + full.failures(shown.report, view)
        case Trace():
            return _trace(shown, view)
    return repr(shown)


def html_fragment(shown: Shown) -> str:
    """Return an object as HTML that fits into any page."""
    view = View(width=100, terminal=True, root=Path.cwd())
    if isinstance(shown, Report):
        return html.fragment(shown, view)
    if isinstance(shown, GradientMap) and shown.report.maps:
        return "".join(html.frame(one, shown.report.findings, view) for one in shown.report.maps)
    return html.styled(f"<pre>{escape(text(shown))}</pre>")


def as_dict(shown: Shown) -> dict[str, Any]:
    """Return a report or a summary as plain dicts and lists, as in JSON."""
    if isinstance(shown, Summary):
        return overview.document(shown.report, Path.cwd())
    assert isinstance(shown, Report)
    return json_format.document(shown, Path.cwd())


def as_json(shown: Shown) -> str:
    """Return a report or a summary as JSON."""
    return json_text(as_dict(shown))


def save_map(shown: GradientMap, path: str) -> None:
    """Write a map to a file, whose suffix decides the format.

    Raises:
        GradlintError: there is no map, or the file cannot be written.
        UsageError: no map is written in a file of this name.
    """
    view = View(root=Path.cwd())
    render.save(shown.report.maps, shown.report.findings, view, path)


def _view_of(stream: TextIO) -> View:
    """Return the view of a stream of the user's."""
    terminal = stream.isatty()
    width = max(shutil.get_terminal_size((WIDTH, 24)).columns, 20) if terminal else WIDTH
    color = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return View(width, color, terminal, getattr(stream, "encoding", None) or "utf-8", root=Path.cwd())


def _trace(trace: Trace, view: View) -> str:
    """Return a trace in numbers: its operations and events are far too many to list."""
    parameters = [p for p in trace.parameters if p.in_tree]
    frozen = sum(not p.requires_grad for p in parameters)
    page = Page(view)
    page.paragraph("trace of " + trace.target, indent=0)
    page.paragraph(trace.inputs_described, label="inputs:")
    page.paragraph(trace.loss_described, label="loss:")
    counts = [
        plural(len(trace.ops), "operation"),
        plural(len(trace.events), "event"),
        plural(len(trace.calls), "module call"),
    ]
    if trace.training is not None:
        counts.append(plural(len(trace.training.steps), "optimizer step"))
    page.paragraph(", ".join(counts), label="recorded:")
    numbers = tensors(len(parameters), sum(p.numel for p in parameters))
    page.paragraph(f"{numbers}: gradient reaches {len(trace.reached)}, {frozen} frozen", label="parameters:")
    page.paragraph(", ".join(o.type for o in trace.optimizers) or "none", label="optimizers:")
    for note in trace.notes:
        page.paragraph(note, label="note:")
    return page.text()
