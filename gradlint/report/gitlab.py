"""The report for the code quality widget of GitLab: one issue for each finding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from gradlint.findings import Failure, Finding, Report, Severity, sorted_findings
from gradlint.report.view import View, file_of_target, in_file, shown_path
from gradlint.rulekit.registry import Entry
from gradlint.source.files import digest_of
from gradlint.system.legible import json_text
from gradlint.triage.baseline import Fingerprints

_SEVERITIES = {Severity.ERROR: "major", Severity.WARNING: "minor", Severity.INFO: "info"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return a JSON array of issues; a target that failed is one too."""
    prints = Fingerprints(view.root)
    seen: Counter[str] = Counter()
    issues = [_failure(failure) for failure in report.errors]
    for finding in sorted_findings(report.findings):
        issues.append(_issue(finding, view, prints.of(finding), seen))
    return json_text(issues)


def _issue(finding: Finding, view: View, print_: str, seen: Counter[str]) -> dict[str, Any]:
    """Return one issue.

    GitLab shows one for each fingerprint, so that of a repeated mistake gets a number.
    """
    seen[print_] += 1
    number = seen[print_]
    place = in_file(finding.location) if finding.location is not None else None
    lines = {"begin": place.line, "end": place.end_line or place.line} if place is not None else {"begin": 1}
    fix = f" Fix: {finding.fix.description}" if finding.fix is not None else ""
    return {
        "description": f"{finding.code} {finding.name}: {finding.message}{fix}",
        "check_name": finding.code,
        "fingerprint": print_ if number == 1 else digest_of(f"{print_} {number}"),
        "severity": _SEVERITIES[finding.severity],
        "location": {"path": shown_path(place.path, view.root) if place else file_of_target(finding), "lines": lines},
    }


def _failure(failure: Failure) -> dict[str, Any]:
    return {
        "description": f"gradlint could not check {failure.target or 'this'}: {failure.message}",
        "check_name": "gradlint",
        "fingerprint": digest_of(f"{failure.target}\0{failure.message}"),
        "severity": "critical",
        "location": {"path": file_of_target(failure), "lines": {"begin": 1}},
    }
