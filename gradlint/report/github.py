"""Workflow commands that GitHub shows beside the lines of a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.findings import Finding, Report, Severity, sorted_findings
from gradlint.report.view import View, in_file, shown_path, shown_place
from gradlint.rulekit.registry import Entry

_COMMANDS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "notice"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return one command for each finding and each target that failed."""
    lines = [_line(finding, view) for finding in sorted_findings(report.findings)]
    for failure in report.errors:
        text = f"{failure.target}: {failure.message}" if failure.target else failure.message
        lines.append(f"::error title=gradlint::{_data(view.clean(text))}")
    return "".join(f"{line}\n" for line in lines)


def _line(finding: Finding, view: View) -> str:
    properties = {"title": view.clean(f"gradlint ({finding.code} {finding.name})")}
    place = finding.location
    where = f"{finding.target}: "
    if place is not None:
        written = in_file(place)
        path = view.clean(shown_path(place.path, view.root))
        properties |= {"file": path, "line": str(written.line), "col": str(written.column)}
        properties |= {"endLine": str(written.end_line or written.line)}
        if written.end_column and written.end_line in (0, written.line):
            properties["endColumn"] = str(written.end_column)
        where = f"{shown_place(place, view.root)}: "
    listed = ",".join(f"{key}={_property(value)}" for key, value in properties.items())
    fix = f" Fix: {finding.fix.description}" if finding.fix else ""
    text = view.clean(f"{where}{finding.code} {finding.message}{fix}")
    return f"::{_COMMANDS[finding.severity]} {listed}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
