"""The report as JUnit XML: a test case for each target and each finding."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape, quoteattr

from gradlint.findings import Finding, Report, sorted_findings
from gradlint.report.summary import sources, summary
from gradlint.report.view import View, file_of_target, shown_path, shown_place
from gradlint.rulekit.registry import Entry


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return one test suite.

    A finding is a failure, a target that failed an error, and each target that was checked a case that passes.
    """
    cases = [_case(view, target.target, "checked", "system-out", summary(target)) for target in report.targets]
    if report.sources is not None:
        cases.append(_case(view, "gradlint", "source rules", "system-out", sources(report.sources)))
    for failure in report.errors:
        cases.append(_case(view, failure.target or "gradlint", "error", "error", failure.message, failure.message))
    cases += [_failure(finding, view) for finding in sorted_findings(report.findings)]
    counts = f'tests="{len(cases)}" failures="{len(report.findings)}" errors="{len(report.errors)}"'
    suite = f'<testsuite name="gradlint" {counts}>\n{"".join(cases)}</testsuite>\n'
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<testsuites name="gradlint" {counts}>\n{suite}</testsuites>\n'


def _failure(finding: Finding, view: View) -> str:
    place = finding.location
    where = shown_place(place, view.root) if place is not None else finding.target
    file = shown_path(place.path, view.root) if place is not None else file_of_target(finding)
    fix = f" Fix: {finding.fix.description}" if finding.fix is not None else ""
    text = f"{where}: {finding.code} {finding.name} ({finding.severity}): {finding.message}{fix}"
    return _case(view, file, f"{finding.code} {where}", "failure", text, finding.message, str(finding.severity))


def _case(view: View, classname: str, name: str, tag: str, text: str, message: str = "", kind: str = "") -> str:
    described = f" message={_quoted(view, message)}" if message else ""
    described += f" type={_quoted(view, kind)}" if kind else ""
    inner = f"<{tag}{described}>{escape(view.clean(text))}</{tag}>"
    return f"  <testcase classname={_quoted(view, classname)} name={_quoted(view, name)}>{inner}</testcase>\n"


def _quoted(view: View, text: str) -> str:
    return quoteattr(view.clean(text))
