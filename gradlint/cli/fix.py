"""``--fix``, ``--diff`` and ``--add-ignores``: from findings to changed files."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradlint.cli.check import Checker, CheckResult
from gradlint.findings import Finding, Note, Report
from gradlint.location import Location
from gradlint.report.view import shown_path
from gradlint.source import overlay
from gradlint.source.text import SourceText, Unreadable
from gradlint.triage.fixes import applicable, fix_text, unified, write_atomically
from gradlint.triage.write_ignores import with_ignores

ROUNDS = 10
"""Number of times that a file is checked again, because one fix may make another possible."""


@dataclass
class Changes:
    """Files with changes; nothing is written yet."""

    before: dict[str, SourceText] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    count: int = 0
    """Findings that were dealt with."""
    notes: list[Note] = field(default_factory=list)
    stdin: str = ""
    """The path that stdin goes by, which is not written to."""

    def diff(self) -> str:
        """Return all changes as a unified diff."""
        root = Path.cwd()
        return "".join(
            unified(self.before[path].text, text, shown_path(path, root)) for path, text in sorted(self.after.items())
        )

    def write(self) -> None:
        """Write the files; a file that cannot be written stays, and a note names it."""
        for path, text in self.after.items():
            if path == self.stdin:
                continue
            try:
                if Path(path).read_bytes() != self.before[path].data:
                    raise OSError("it was changed while gradlint checked it")
                write_atomically(path, self.before[path].encoded(text))
            except (OSError, UnicodeEncodeError) as error:
                shown = shown_path(path, Path.cwd())
                self.notes.append(Note(shown, f"{shown} is not fixed: {getattr(error, 'strerror', None) or error}"))


def fix(
    checker: Checker, result: CheckResult, report: Report, *, unsafe: bool, show_info: bool
) -> tuple[Report, Changes]:
    """Make the edits of the findings, check the changed files again, and fix those too.

    Returns:
        The report of the remaining findings, and the changes.
    """
    changes = Changes(stdin=result.stdin)
    by_path = {file.path: file for file in result.sources}
    recorded = {target.target for target in report.targets} | set(checker.targets)
    for _ in range(ROUNDS):
        edited = _round(report, changes, unsafe=unsafe)
        if not edited:
            break
        again = CheckResult(Report(), result.sources, stdin=result.stdin)
        checker.judge_sources(again, [by_path[path] for path in edited if path in by_path])
        again.scopes = {p: s for p, s in again.scopes.items() if p in edited}
        fresh = checker.reported(again, show_info=show_info)
        remaining = [
            f for f in report.findings if f.location is None or f.location.path not in edited or f.target in recorded
        ]
        applied = {id(f) for path in edited for f in edited[path].applied}
        remaining = [_moved(f, {p: e.lines for p, e in edited.items()}) for f in remaining if id(f) not in applied]
        report = replace(report, findings=[*remaining, *fresh.findings])
    return replace(report, fixed=changes.count, notes=[*report.notes, *changes.notes]), changes


@dataclass
class _Edited:
    applied: list[Finding]
    lines: Callable[[int], int]


def _round(report: Report, changes: Changes, *, unsafe: bool) -> dict[str, _Edited]:
    """Make the edits that can be made together, and return the files that changed."""
    wanted: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if applicable(finding, unsafe=unsafe) and finding.location is not None:
            wanted.setdefault(finding.location.path, []).append(finding)
    edited: dict[str, _Edited] = {}
    for path, findings in wanted.items():
        try:
            source = SourceText(path, overlay.read(path))
        except (OSError, Unreadable):
            continue
        fixed = fix_text(source, findings, unsafe=unsafe)
        for finding, reason in fixed.refused:
            if "syntax" in reason:
                note = Note(finding.target, f"the fix of {finding.code} is not made: {reason}", "", finding.location)
                changes.notes += [note] if note not in changes.notes else []
        if not fixed.changed:
            continue
        try:
            data = source.encoded(fixed.text)
        except UnicodeEncodeError:
            changes.notes.append(Note(path, f"{path} is not fixed: its encoding, {source.encoding}, lacks a character"))
            continue
        changes.before.setdefault(path, source)
        changes.after[path] = fixed.text
        changes.count += len(fixed.applied)
        edited[path] = _Edited(fixed.applied, _line_map(source.text, fixed.text))
        overlay.stand_in(path, data)
    return edited


def _line_map(before: str, after: str) -> Callable[[int], int]:
    """Return a function from line numbers of the old text to those of the new text."""
    blocks = difflib.SequenceMatcher(None, before.split("\n"), after.split("\n"), autojunk=False).get_matching_blocks()

    def line(number: int) -> int:
        shift = 0
        for block in blocks:
            if number - 1 < block.a:
                break
            shift = block.b - block.a
        return max(number + shift, 1)

    return line


def _moved(finding: Finding, lines: dict[str, Callable[[int], int]]) -> Finding:
    """Return a finding whose locations follow the changed text.

    Its edits were made for the old text and are dropped.
    """

    def move(place: Location) -> Location:
        to = lines.get(place.path)
        if to is None:
            return place
        return replace(place, line=to(place.line), end_line=to(place.end_line) if place.end_line else 0)

    places = [r.location.path for r in finding.related] + ([finding.location.path] if finding.location else [])
    if not any(path in lines for path in places):
        return finding
    return replace(
        finding,
        location=move(finding.location) if finding.location else None,
        related=tuple(replace(r, location=move(r.location)) for r in finding.related),
        fix=finding.fix and replace(finding.fix, edits=()),
    )


def add_ignores(report: Report) -> tuple[Report, Changes]:
    """Write a comment for each finding; the report keeps findings that got none."""
    changes = Changes()
    by_path: dict[str, list[Finding]] = {}
    remaining = [finding for finding in report.findings if finding.location is None]
    for finding in report.findings:
        if finding.location is not None:
            by_path.setdefault(finding.location.path, []).append(finding)
    for path, findings in by_path.items():
        try:
            source = SourceText(path, overlay.read(path))
        except (OSError, Unreadable):
            remaining += findings
            continue
        text, done, rest = with_ignores(source, findings)
        remaining += rest
        if text != source.text:
            changes.before[path], changes.after[path] = source, text
            changes.count += len(done)
    return replace(report, findings=remaining), changes
