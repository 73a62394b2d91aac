"""``--fix``, ``--diff`` and ``--add-ignores``: from findings to changed files."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gradlint.cli.check import Checker, CheckResult
from gradlint.findings import Failure, Finding, Note, Report
from gradlint.location import Location
from gradlint.report.view import shown_path
from gradlint.source import overlay
from gradlint.source.files import source_text
from gradlint.source.text import NOTEBOOK, SourceText, Unreadable
from gradlint.system import writing
from gradlint.triage.fixes import applicable, fix_text, unified
from gradlint.triage.write_ignores import with_ignores

ROUNDS = 10
"""Number of times that a file is checked again, because one fix may make another possible."""


@dataclass
class Changes:
    """Files with changes; nothing is written yet."""

    before: dict[str, SourceText] = field(default_factory=dict)
    after: dict[str, str] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    """Findings that were dealt with, by file."""
    notes: list[Note] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    """Files that could not be changed."""
    stdin: str = ""
    """The path that stdin goes by, which is not written to."""

    @property
    def count(self) -> int:
        """Findings that were dealt with."""
        return sum(self.counts.values())

    def add(self, source: SourceText, text: str, count: int) -> None:
        """Add the new text of a file.

        Raises:
            UnicodeError: it cannot be written in the encoding of the file.
        """
        source.encoded(text)
        self.before.setdefault(source.path, source)
        self.after[source.path] = text
        self.counts[source.path] = self.counts.get(source.path, 0) + count

    def diff(self) -> str:
        """Return all changes as a unified diff."""
        root = Path.cwd()
        return "".join(
            _diff(self.before[path], text, shown_path(path, root)) for path, text in sorted(self.after.items())
        )

    def write(self) -> None:
        """Write the files.

        One that cannot be written stays as it was, and is among the failures instead.
        """
        for path, text in list(self.after.items()):
            problem = "" if path == self.stdin else _written(self.before[path], self.before[path].encoded(text))
            if problem:
                self.fail(path, problem)

    def fail(self, path: str, problem: str) -> None:
        """Leave a file as it is."""
        self.failures[path] = Failure(shown_path(path, Path.cwd()), f"cannot be changed: {problem}")
        self.after.pop(path, None)
        self.counts.pop(path, None)


def _diff(source: SourceText, text: str, name: str) -> str:
    """Return the change of a file as a unified diff; of a notebook, that of each cell."""
    if not source.path.endswith(NOTEBOOK):
        return unified(source.text, text, name)
    from gradlint.source.notebook import NotebookText  # not needed otherwise

    assert isinstance(source, NotebookText)
    changed = [(f"{name}:cell {cell.number}", cell.lines, lines) for cell, lines in source.originals(text)]
    return "".join(unified(f"{_joined(old)}", f"{_joined(new)}", title) for title, old, new in changed)


def _joined(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _written(source: SourceText, data: bytes) -> str:
    """Write the new content of a file, and return what is in the way of that."""
    try:
        writing.write(source.path, data, expected=source.data)
    except writing.FileChanged as error:
        # The file has two names, or another gradlint has made the same edits.
        return "" if _holds(source.path, data) else str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _holds(path: str, data: bytes) -> bool:
    try:
        return Path(path).read_bytes() == data
    except OSError:
        return False


def fix(
    checker: Checker, result: CheckResult, report: Report, *, unsafe: bool, show_info: bool, write: bool
) -> tuple[Report, Changes]:
    """Make the edits of the findings, check the changed files again, and fix those too.

    A file that cannot be written keeps its findings, and is an error.

    Args:
        checker: has checked the files.
        result: what it found.
        report: the findings that count.
        unsafe: whether unsafe edits are made too.
        show_info: whether findings of severity info count.
        write: whether files are written.

    Returns:
        The report of the remaining findings, and the changes.
    """
    remaining, changes = _fixed(checker, result, report, {}, unsafe=unsafe, show_info=show_info)
    if write:
        sources = dict(changes.before)
        changes.write()
        if changes.failures:
            for path, source in sources.items():
                overlay.stand_in(path, source.data)
            failures = changes.failures
            remaining, changes = _fixed(checker, result, report, failures, unsafe=unsafe, show_info=show_info)
    return replace(remaining, errors=[*remaining.errors, *changes.failures.values()]), changes


def _fixed(
    checker: Checker,
    result: CheckResult,
    report: Report,
    failures: Mapping[str, Failure],
    *,
    unsafe: bool,
    show_info: bool,
) -> tuple[Report, Changes]:
    """Return the report after all edits that can be made, and the changes.

    Files with failures are left out.
    """
    changes = Changes(stdin=result.stdin, failures=dict(failures))
    by_path = {file.path: file for file in result.sources}
    recorded = {target.target for target in report.targets} | set(checker.targets)
    for _ in range(ROUNDS):
        edited = _round(result, report, changes, unsafe=unsafe)
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


def _round(result: CheckResult, report: Report, changes: Changes, *, unsafe: bool) -> dict[str, _Edited]:
    """Make the edits that can be made together, and return the files that changed."""
    wanted: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if applicable(finding, unsafe=unsafe) and finding.location is not None:
            wanted.setdefault(finding.location.path, []).append(finding)
    edited: dict[str, _Edited] = {}
    for path, findings in wanted.items():
        source = _source(path, result, changes)
        if source is None:
            continue
        fixed = fix_text(source, findings, unsafe=unsafe)
        for finding, reason in fixed.refused:
            if "syntax" in reason:
                note = Note(finding.target, f"the fix of {finding.code} is not made: {reason}", "", finding.location)
                changes.notes += [note] if note not in changes.notes else []
        if not fixed.changed:
            continue
        try:
            changes.add(source, fixed.text, len(fixed.applied))
        except UnicodeError as error:
            changes.notes.append(_encoding_note(source, error))
            continue
        edited[path] = _Edited(fixed.applied, _line_map(source.text, fixed.text))
        overlay.stand_in(path, source.encoded(fixed.text))
    return edited


def _source(path: str, result: CheckResult, changes: Changes) -> SourceText | None:
    """Return the text that the findings in a file are about; None if it is gone."""
    if path in changes.failures:
        return None
    try:
        source = source_text(path, overlay.read(path))
        if not overlay.stands_in(path) and result.has_changed(path, source.data):
            raise writing.FileChanged
    except writing.FileChanged as error:
        changes.fail(path, str(error))
        return None
    except (OSError, Unreadable):
        return None
    return source


def _encoding_note(source: SourceText, error: UnicodeError) -> Note:
    text = f"{source.path} is not changed: its encoding, {source.encoding}, cannot hold the new text"
    if source.path.endswith(NOTEBOOK):
        text = f"{source.path} is not changed: {error}"
    return Note(source.path, text)


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


def add_ignores(result: CheckResult, report: Report) -> tuple[Report, Changes]:
    """Write a comment for each finding.

    Returns:
        The report of the findings that got none, and the changes. A file that cannot be written is an error.
    """
    changes = Changes()
    by_path: dict[str, list[Finding]] = {}
    remaining = [finding for finding in report.findings if finding.location is None]
    for finding in report.findings:
        if finding.location is not None:
            by_path.setdefault(finding.location.path, []).append(finding)
    for path, findings in by_path.items():
        source = _source(path, result, changes)
        if source is None:
            remaining += [] if path in changes.failures else findings
            continue
        text, done, rest = with_ignores(source, findings)
        try:
            if text != source.text:
                changes.add(source, text, len(done))
            remaining += rest
        except UnicodeError as error:
            changes.notes.append(_encoding_note(source, error))
            remaining += findings
    changes.write()
    return replace(report, findings=remaining, errors=[*report.errors, *changes.failures.values()]), changes
