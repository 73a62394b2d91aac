"""Statistics: the number of findings of each code."""

from __future__ import annotations

from collections import Counter

from gradlint.findings import Finding, Report
from gradlint.report.view import View
from gradlint.system.legible import json_text
from gradlint.triage.fixes import applicable

FORMATS = ("full", "concise", "json")
"""The output formats that statistics have."""


def render(report: Report, view: View) -> str:
    """Return one line per code: count, code, ``[*]`` if all are fixable, name."""
    rows = _rows(report)
    width = max((len(str(count)) for count, *_ in rows), default=0)
    return "".join(
        view.clean(f"{count:{width}}  {code}  {'[*]' if fixable else '[ ]'}  {name}") + "\n"
        for count, code, name, fixable in rows
    )


def as_json(report: Report) -> str:
    """Return the same as JSON in ASCII."""
    rows = [
        {"code": code, "name": name, "count": count, "fixable": fixable} for count, code, name, fixable in _rows(report)
    ]
    return json_text({"schema": 1, "statistics": rows})


def _rows(report: Report) -> list[tuple[int, str, str, bool]]:
    counts = Counter((finding.code, finding.name) for finding in report.findings)
    return [
        (count, code, name, all(applicable(f, unsafe=True) for f in _of(report, code)))
        for (code, name), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]


def _of(report: Report, code: str) -> list[Finding]:
    return [finding for finding in report.findings if finding.code == code]
