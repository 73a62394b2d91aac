"""The report in the diagnostic format of reviewdog; columns count the bytes of UTF-8 from 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gradlint.findings import Failure, Finding, Report, Severity, sorted_findings
from gradlint.location import Location
from gradlint.report.view import View, file_of_target, in_file, shown_path
from gradlint.rulekit.registry import Entry
from gradlint.source.files import written_lines
from gradlint.source.text import NOTEBOOK
from gradlint.system.legible import json_text

_SEVERITIES = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.INFO: "INFO"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return one diagnostic result; a target that failed is a diagnostic too."""
    diagnostics = [_failure(failure) for failure in report.errors]
    diagnostics += [_diagnostic(finding, view) for finding in sorted_findings(report.findings)]
    return json_text({"source": {"name": "gradlint"}, "diagnostics": diagnostics})


def _failure(failure: Failure) -> dict[str, Any]:
    return {"message": failure.message, "location": {"path": file_of_target(failure)}, "severity": "ERROR"}


def _diagnostic(finding: Finding, view: View) -> dict[str, Any]:
    place = finding.location
    fix = f"\n\nFix: {finding.fix.description}" if finding.fix is not None else ""
    diagnostic: dict[str, Any] = {
        "message": f"{finding.message}{fix}",
        "location": {"path": file_of_target(finding)},
        "severity": _SEVERITIES[finding.severity],
        "code": {"value": finding.code},
    }
    if place is None:
        return diagnostic
    diagnostic["location"] = {"path": shown_path(place.path, view.root), "range": _range(in_file(place))}
    edits = finding.fix.edits if finding.fix is not None and finding.fix.safe else ()
    if edits and all(edit.location.path == place.path and not place.path.endswith(NOTEBOOK) for edit in edits):
        diagnostic["suggestions"] = [{"range": _range(edit.location, whole=True), "text": edit.text} for edit in edits]
    return diagnostic


def _range(place: Location, *, whole: bool = False) -> dict[str, Any]:
    lines = written_lines(place.path)
    made = {"start": _position(lines, place.line, place.column)}
    if place.end_column or whole:
        made["end"] = _position(lines, place.end_line or place.line, place.end_column or place.column)
    return made


def _position(lines: Sequence[str], line: int, column: int) -> dict[str, int]:
    before = lines[line - 1][: column - 1] if line <= len(lines) else ""
    more = column - 1 - len(before)
    return {"line": line, "column": len(before.encode("utf-8", "surrogatepass")) + more + 1}
