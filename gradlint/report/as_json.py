"""The report for programs. The keys and their meaning are part of the interface; `schema` counts their changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gradlint.findings import Edit, Finding, Fix, Note, Related, Report, SourceSummary, TargetSummary, sorted_findings
from gradlint.location import Location
from gradlint.report.view import View, shown_path, within_cell
from gradlint.rulekit.registry import Entry
from gradlint.system.legible import json_text

SCHEMA = 1


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return the report as JSON in ASCII, which no encoding of stdout can break."""
    return json_text(document(report, view.root))


def document(report: Report, root: Path) -> dict[str, Any]:
    """Return the report as plain dicts and lists; paths below `root` are relative to it.

    A location that is not known has an empty path and zeros. In a notebook lines are those of the code cell at the
    position `cell`, from 1; `cell` is 0 in other files.
    """
    return {
        "schema": SCHEMA,
        "findings": [_finding(finding, root) for finding in sorted_findings(report.findings)],
        "skipped": [{"target": skip.target, "code": skip.code, "reason": skip.reason} for skip in report.skipped],
        "errors": [{"target": failure.target, "message": failure.message} for failure in report.errors],
        "notes": [_note(note, root) for note in report.notes],
        "targets": [_target(target) for target in report.targets],
        "sources": _sources(report.sources) if report.sources else None,
        "silenced": report.silenced,
        "baseline": {"known": report.known + report.earlier, "gone": report.gone},
        "fixed": report.fixed,
    }


def _sources(read: SourceSummary) -> dict[str, Any]:
    return {"files": read.files, "judged": read.judged, "cached": read.cached, "seconds": read.seconds}


def _finding(finding: Finding, root: Path) -> dict[str, Any]:
    cell, place = _shown(finding.location)
    return {
        "target": finding.target,
        "code": finding.code,
        "name": finding.name,
        "severity": str(finding.severity),
        "message": finding.message,
        "path": shown_path(place.path, root) if place else "",
        "line": place.line if place else 0,
        "column": place.column if place else 0,
        "cell": cell,
        "end_line": (place.end_line or place.line) if place else 0,
        "end_column": place.end_column if place else 0,
        "parameters": list(finding.parameters),
        "related": [_related(related, root) for related in finding.related],
        "fix": _fix(finding.fix, root) if finding.fix else None,
        "saving": asdict(finding.saving) if finding.saving else None,
    }


def _shown(place: Location | None) -> tuple[int, Location | None]:
    return within_cell(place) if place is not None else (0, None)


def _related(related: Related, root: Path) -> dict[str, Any]:
    cell, place = within_cell(related.location)
    return {
        "message": related.message,
        "path": shown_path(place.path, root),
        "line": place.line,
        "column": place.column,
        "cell": cell,
    }


def _fix(fix: Fix, root: Path) -> dict[str, Any]:
    return {"description": fix.description, "safe": fix.safe, "edits": [_edit(edit, root) for edit in fix.edits]}


def _edit(edit: Edit, root: Path) -> dict[str, Any]:
    cell, place = within_cell(edit.location)
    return {
        "path": shown_path(place.path, root),
        "cell": cell,
        "start": [place.line, place.column],
        "end": [place.end_line or place.line, place.end_column or place.column],
        "text": edit.text,
    }


def _note(note: Note, root: Path) -> dict[str, Any]:
    cell, place = _shown(note.location)
    return {
        "target": note.target,
        "code": note.code,
        "message": note.message,
        "path": shown_path(place.path, root) if place else "",
        "line": place.line if place else 0,
        "cell": cell,
    }


def _target(target: TargetSummary) -> dict[str, Any]:
    return {
        "target": target.target,
        "inputs": target.inputs,
        "loss": target.loss,
        "parameters": target.parameters,
        "trainable": target.trainable,
        "frozen": target.frozen,
        "starved": target.starved,
        "unused": target.unused,
        "reached": target.reached,
        "not_in_optimizer": target.not_in_optimizer,
        "zero_rate": target.zero_rate,
        "numel": target.numel,
        "optimizers": [{"name": name, "parameters": count} for name, count in target.optimizers],
        "seconds": round(target.seconds, 3),
    }
