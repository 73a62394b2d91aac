"""The report as SARIF 2.1.0, for code scanning services and editors."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from gradlint._version import __version__
from gradlint.findings import Edit, Failure, Finding, Report, Severity, sorted_findings
from gradlint.location import Location
from gradlint.report.catalogue import as_markdown, documentation, summary
from gradlint.report.view import View, in_file, within_cell
from gradlint.rulekit.registry import Entry
from gradlint.source.text import NOTEBOOK
from gradlint.system.legible import json_text
from gradlint.triage.baseline import Fingerprints

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LINK = re.compile(r"\[(?=[^\[\]]*\]\()")
_LEVELS = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.INFO: "note"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return the report as one SARIF log in ASCII."""
    return json_text(_storable(document(report, view.root, rules)))


def document(report: Report, root: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    """Return the log as plain dicts and lists.

    Args:
        report: the report.
        root: the folder that paths below it are relative to, as %SRCROOT%.
        entries: the rules that ran; those with findings are described in full.
    """
    findings = sorted_findings(report.findings)
    rules = sorted({*_known(findings, entries)}, key=lambda entry: entry.code)
    index = {entry.code: number for number, entry in enumerate(rules)}
    prints = Fingerprints(root)
    run = {
        "tool": {
            "driver": {
                "name": "gradlint",
                "version": __version__,
                "semanticVersion": _semantic(__version__),
                "rules": [_rule(entry) for entry in rules],
            }
        },
        "columnKind": "unicodeCodePoints",
        "originalUriBaseIds": {"SRCROOT": {"uri": _folder_uri(root)}},
        "invocations": [
            {
                "executionSuccessful": not report.errors,
                "toolExecutionNotifications": [_notification(failure) for failure in report.errors],
            }
        ],
        "results": [_result(finding, root, index, prints) for finding in findings],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _storable(value: Any) -> Any:
    """Return plain data without lone surrogates, which not every reader of JSON takes.

    They stand for the bytes of file names that are not UTF-8, which the URIs keep.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _storable(part) for key, part in value.items()}
    return [_storable(part) for part in value] if isinstance(value, list) else value


def _message(text: str) -> dict[str, str]:
    """Return a message; a bracket that would begin a link is escaped."""
    return {"text": _LINK.sub(r"\\[", text)}


def _known(findings: Sequence[Finding], entries: Sequence[Entry]) -> list[Entry]:
    used = {finding.code for finding in findings}
    return [entry for entry in entries if entry.code in used]


def _semantic(version: str) -> str:
    """Return a Python version in semantic versioning: ``0.1.0-dev1`` for ``0.1.0.dev1``."""
    match = re.match(r"(\d+)(?:\.(\d+))?(?:\.(\d+))?[.-]?(.*)", version)
    if match is None:
        return "0.0.0"
    rest = re.sub(r"[^0-9A-Za-z.-]", ".", match[4])
    return f"{match[1]}.{match[2] or 0}.{match[3] or 0}{f'-{rest}' if rest else ''}"


def _rule(entry: Entry) -> dict[str, Any]:
    text = documentation(entry)
    about = summary(entry)
    return {
        "id": entry.code,
        "name": "".join(part.capitalize() for part in entry.name.split("-")),
        "shortDescription": {"text": about},
        "fullDescription": {"text": about},
        "help": {"text": text, "markdown": as_markdown(text)},
        "defaultConfiguration": {"level": _LEVELS[entry.severity]},
        "properties": {"tags": [entry.name]},
    }


def _notification(failure: Failure) -> dict[str, Any]:
    text = f"{failure.target}: {failure.message}" if failure.target else failure.message
    return {"level": "error", "message": _message(text)}


def _result(finding: Finding, root: Path, index: dict[str, int], prints: Fingerprints) -> dict[str, Any]:
    text = finding.message
    if finding.fix is not None:
        text += f"\n\nFix: {finding.fix.description}"
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "level": _LEVELS[finding.severity],
        "message": _message(text),
        "locations": [_location(finding.location, root)] if finding.location else [],
        "partialFingerprints": {"gradlint/v1": prints.of(finding)},
        "properties": {"target": finding.target, "parameters": list(finding.parameters)},
    }
    if finding.code in index:
        result["ruleIndex"] = index[finding.code]
    if finding.related:
        result["relatedLocations"] = [
            {"id": number, **_location(related.location, root), "message": _message(related.message)}
            for number, related in enumerate(finding.related)
        ]
    if finding.fix is not None and finding.fix.edits and not finding.fix.edits[0].location.path.endswith(NOTEBOOK):
        result["fixes"] = [_fix(finding.fix.description, finding.fix.edits, root)]
    return result


def _fix(description: str, edits: Sequence[Edit], root: Path) -> dict[str, Any]:
    by_path: dict[str, list[Edit]] = {}
    for edit in edits:
        by_path.setdefault(edit.location.path, []).append(edit)
    return {
        "description": _message(description),
        "artifactChanges": [
            {
                "artifactLocation": _artifact(path, root),
                "replacements": [
                    {"deletedRegion": _region(edit.location, whole=True), "insertedContent": {"text": edit.text}}
                    for edit in file_edits
                ],
            }
            for path, file_edits in by_path.items()
        ],
    }


def _location(place: Location, root: Path) -> dict[str, Any]:
    physical = {"artifactLocation": _artifact(place.path, root), "region": _region(in_file(place))}
    cell, inner = within_cell(place)
    if not cell:
        return {"physicalLocation": physical}
    name = f"cell {cell}:{inner.line}:{inner.column}"
    return {"physicalLocation": physical, "logicalLocations": [{"name": name, "kind": "member"}]}


def _region(place: Location, *, whole: bool = False) -> dict[str, int]:
    region = {"startLine": place.line, "startColumn": place.column, "endLine": place.end_line or place.line}
    if place.end_column or whole:
        region["endColumn"] = place.end_column or place.column
    return region


def _artifact(path: str, root: Path) -> dict[str, Any]:
    if path.startswith("<"):
        return {"uri": quote(path, errors="backslashreplace")}
    try:
        relative = os.path.relpath(path, root)
    except ValueError:  # another Windows drive
        relative = ".."
    if relative.split(os.sep)[0] == "..":
        return {"uri": Path(_encodable(os.path.abspath(path))).as_uri()}
    return {"uri": quote(os.fsencode(_encodable(relative.replace(os.sep, "/")))), "uriBaseId": "SRCROOT"}


def _encodable(path: str) -> str:
    """Return a path that can be encoded.

    A lone surrogate that stands for no byte becomes an escape: user code can name its files so.
    """
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        return path.encode("utf-8", "backslashreplace").decode()
    return path


def _folder_uri(folder: Path) -> str:
    return folder.absolute().as_uri().rstrip("/") + "/"
