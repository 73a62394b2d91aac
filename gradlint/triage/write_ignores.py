"""Comments that suppress findings, written into files."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable

from gradlint.findings import Finding
from gradlint.source.text import SourceText, Unreadable, parse
from gradlint.triage.suppressions import FileSuppressions, Suppression


def with_ignores(source: SourceText, findings: Iterable[Finding]) -> tuple[str, list[Finding], list[Finding]]:
    """Return (text with a comment for each finding, suppressed findings, the others).

    A comment stands at the end of the blamed line, else of the first or the last line of its statement, where the line
    can take one: not inside a string, not before a continued line. Codes join a comment that is there.
    """
    lines = _lines(source.text)
    suppressions = FileSuppressions(source)
    closed = _closed_lines(source.text)
    by_line: dict[int, list[str]] = {}
    done: list[Finding] = []
    remaining: list[Finding] = []
    for finding in findings:
        place = finding.location
        if place is None or place.path != source.path:
            remaining.append(finding)
            continue
        candidates = [place.line, *sorted(suppressions.lines_of(place.line) - {place.line})]
        line = next((n for n in candidates if 0 < n <= len(lines) and n not in closed), None)
        if line is None:
            remaining.append(finding)
            continue
        codes = by_line.setdefault(line, [])
        if finding.code not in codes:
            codes.append(finding.code)
        done.append(finding)
    for line, codes in by_line.items():
        here = next((s for s in suppressions.found if s.line == line and s.kind == "ignore" and s.codes), None)
        lines[line - 1] = _added(lines[line - 1], sorted(codes), here)
    text = "".join(lines)
    if not _same_program(source.text, text):
        return source.text, [], [*done, *remaining]
    return text, done, remaining


def _lines(text: str) -> list[str]:
    return re.split(r"(?<=\n)|(?<=\r)(?!\n)", text)


def _added(line: str, codes: list[str], here: Suppression | None) -> str:
    body = line.rstrip("\r\n")
    end = line[len(body) :]
    if here is not None:
        old = body[here.column - 1 : here.end_column - 1]
        merged = ", ".join(dict.fromkeys((*here.codes, *codes)))
        new = old[: old.index("[")] + f"[{merged}]" + old[old.index("]") + 1 :]
        return body[: here.column - 1] + new + body[here.end_column - 1 :] + end
    return f"{body.rstrip()}  # gradlint: ignore[{', '.join(codes)}]{end}"


def _closed_lines(text: str) -> set[int]:
    """Return the lines that end inside a string or in a backslash."""
    closed: set[int] = set()
    opened: list[int] = []
    lines = _lines(text)
    try:
        for token in tokenize.generate_tokens(io.StringIO("".join(lines)).readline):
            name = tokenize.tok_name[token.type]
            if name in ("FSTRING_START", "TSTRING_START"):
                opened.append(token.start[0])
            elif name in ("FSTRING_END", "TSTRING_END") and opened:
                closed.update(range(opened.pop(), token.end[0]))
            elif name == "STRING":
                closed.update(range(token.start[0], token.end[0]))
    except (tokenize.TokenError, SyntaxError, ValueError):
        return set(range(1, len(lines) + 1))
    return closed | {number for number, line in enumerate(lines, 1) if line.rstrip("\r\n").endswith("\\")}


def _same_program(before: str, after: str) -> bool:
    try:
        return ast.dump(parse(before)) == ast.dump(parse(after))
    except (Unreadable, RecursionError):
        return False
