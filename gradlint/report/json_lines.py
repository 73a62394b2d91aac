"""The report for programs that read line by line: one JSON object in each."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.findings import Report
from gradlint.report.as_json import document
from gradlint.report.view import View
from gradlint.rulekit.registry import Entry
from gradlint.system.legible import json_text

_KINDS = {"findings": "finding", "errors": "error", "notes": "note", "targets": "target"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return the parts of the format json, each in a line with its `kind`; findings come first."""
    parts = document(report, view.root)
    lines = [{"kind": kind, **part} for key, kind in _KINDS.items() for part in parts[key]]
    return "".join(json_text(line, in_one_line=True) for line in lines)
