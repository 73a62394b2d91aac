"""One line per finding, for editors and for grep."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.findings import Finding, Report, sorted_findings
from gradlint.report.summary import sources, summary
from gradlint.report.view import View, shown_place
from gradlint.rulekit.registry import Entry


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return ``path:line:col: CODE message`` for each finding, or its target without a location."""
    return "".join(f"{_line(finding, view)}\n" for finding in sorted_findings(report.findings))


def aside(report: Report, view: View) -> str:
    """Return the summaries and notes that lines of findings cannot hold, for stderr."""
    lines = [view.clean(f"{target.target}: {summary(target)}") for target in report.targets]
    if report.sources is not None:
        lines.append(sources(report.sources))
    lines += notes(report, view).splitlines()
    if report.fixed:
        lines.append(f"{report.fixed} fixed")
    if report.hidden:
        lines.append(f"{report.hidden} info hidden (--show-info)")
    return "".join(f"{line}\n" for line in lines)


def notes(report: Report, view: View) -> str:
    """Return the notes about the call as a whole, for stderr."""
    return "".join(view.clean(f"note: {note.message}") + "\n" for note in report.notes if not note.target)


def errors(report: Report, view: View) -> str:
    """Return the targets that failed, each with the user's traceback above its message."""
    lines = []
    for failure in report.errors:
        lines += view.lines(failure.traceback.rstrip("\n")) if failure.traceback.strip() else []
        lines.append(view.clean(f"error: {failure.target}: {failure.message}" if failure.target else failure.message))
    return "".join(f"{line}\n" for line in lines)


def _line(finding: Finding, view: View) -> str:
    place = finding.location
    where = shown_place(place, view.root) if place else finding.target
    return view.clean(f"{where}: {finding.code} {finding.message}")
