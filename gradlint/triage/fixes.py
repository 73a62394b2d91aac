"""Edits of files: none overlaps another, and the result parses."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from gradlint.findings import Edit, Finding
from gradlint.source.text import SourceText, Unreadable, parse
from gradlint.system import legible


@dataclass
class FixedFile:
    """One file with fixes applied; nothing is written yet."""

    source: SourceText
    text: str
    applied: list[Finding] = field(default_factory=list)
    refused: list[tuple[Finding, str]] = field(default_factory=list)
    """Findings whose edits were left out, and why."""

    @property
    def changed(self) -> bool:
        return self.text != self.source.text


def applicable(finding: Finding, *, unsafe: bool) -> bool:
    """Return True if a finding has edits that may be made."""
    return finding.fix is not None and bool(finding.fix.edits) and (finding.fix.safe or unsafe)


def fix_text(source: SourceText, findings: Iterable[Finding], *, unsafe: bool = False) -> FixedFile:
    """Apply the edits of findings to a text; of each fix all edits or none.

    A fix is refused with a reason if it overlaps an earlier one, reaches into another file or breaks the syntax.
    """
    fixed = FixedFile(source, source.text)
    chosen: list[tuple[Finding, list[tuple[int, int, str]]]] = []
    taken: list[tuple[int, int]] = []
    applied: set[tuple[int, int, str]] = set()
    for finding in findings:
        if not applicable(finding, unsafe=unsafe) or finding.fix is None:
            continue
        if any(edit.location.path != source.path for edit in finding.fix.edits):
            fixed.refused.append((finding, "it reaches into another file"))
            continue
        spans = [_span(source, edit) for edit in finding.fix.edits]
        if all(span in applied for span in spans):
            fixed.applied.append(finding)  # another finding asks for the same
        elif any(_overlap(span, other) for span in spans for other in taken):
            fixed.refused.append((finding, "it overlaps another fix"))
        else:
            chosen.append((finding, spans))
            taken += [(start, end) for start, end, _ in spans]
            applied.update(spans)
    text = _edited(source.text, [span for _, spans in chosen for span in spans])
    if chosen and not _parses(text):
        good: list[tuple[Finding, list[tuple[int, int, str]]]] = []
        for finding, spans in chosen:
            tried = _edited(source.text, [s for _, others in [*good, (finding, spans)] for s in others])
            if _parses(tried):
                good.append((finding, spans))
            else:
                fixed.refused.append((finding, "it would leave a syntax error"))
        chosen = good
        text = _edited(source.text, [span for _, spans in chosen for span in spans])
    fixed.applied += [finding for finding, _ in chosen]
    fixed.text = text
    return fixed


def _span(source: SourceText, edit: Edit) -> tuple[int, int, str]:
    place = edit.location
    start = source.offset(place.line, place.column)
    end = source.offset(place.end_line or place.line, place.end_column or place.column)
    return start, max(start, end), edit.text.replace("\r\n", "\n").replace("\n", source.newline)


def _overlap(span: tuple[int, int, str], other: tuple[int, int]) -> bool:
    start, end, _ = span
    return (start < other[1] and other[0] < end) or start == other[0]


def _edited(text: str, spans: Sequence[tuple[int, int, str]]) -> str:
    for start, end, new in sorted(set(spans), reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _parses(text: str) -> bool:
    try:
        parse(text)
    except Unreadable:
        return False
    return True


def unified(before: str, after: str, name: str) -> str:
    """Return a unified diff of two texts, which marks a last line without an end."""
    name = legible.one_line(name)
    # Not str.splitlines: a form feed or a Unicode line separator ends no line of a diff.
    old, new = (re.findall(r"[^\n]*\n|[^\n]+$", text) for text in (before, after))
    lines = difflib.unified_diff(old, new, f"a/{name}", f"b/{name}")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
