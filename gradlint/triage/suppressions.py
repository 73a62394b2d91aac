"""Comments that suppress findings, and those that suppress nothing."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gradlint.findings import Edit, Finding, Fix, Severity
from gradlint.location import Location
from gradlint.source import overlay
from gradlint.source.files import source_text
from gradlint.source.text import SourceText, Unreadable

UNUSED = "GL001"
_OWN = re.compile(r"#\s*gradlint:\s*(?P<kind>ignore-file|ignore)\b\s*(?:\[(?P<codes>[^\]]*)\])?", re.IGNORECASE)
_NOQA = re.compile(
    r"#\s*noqa\b(?:\s*:\s*(?P<codes>[A-Za-z]+[0-9]+(?:(?:\s*,\s*|\s+)[A-Za-z]+[0-9]+)*))?", re.IGNORECASE
)


@dataclass
class Suppression:
    """One comment."""

    line: int
    column: int
    """Column of the suppression in its line, from 1."""
    end_column: int
    codes: tuple[str, ...]
    """Codes and names as they are written; empty for all rules."""
    kind: str
    """``ignore``, ``ignore-file`` or ``noqa``."""
    used: set[str] = field(default_factory=set)
    """Codes that suppressed a finding."""

    def means(self, finding: Finding) -> str | None:
        """Return the code or name by which the comment suppresses a finding.

        It is empty if the comment names none, and None if it does not apply.
        """
        if not self.codes:
            return ""
        return next((c for c in self.codes if c.upper() == finding.code or c.lower() == finding.name), None)


class FileSuppressions:
    """The comments of one file."""

    def __init__(self, source: SourceText) -> None:
        self.source = source
        self.found = list(_comments(source))

    @cached_property
    def _tree(self) -> ast.Module | None:
        try:
            return self.source.parsed()
        except Unreadable:
            return None

    @classmethod
    def of(cls, path: str) -> FileSuppressions | None:
        """Return the comments of a file; None if it cannot be read."""
        try:
            return cls(source_text(path, overlay.read(path)))
        except (OSError, Unreadable):
            return None

    def silences(self, finding: Finding) -> bool:
        """Return True if a comment suppresses a finding, and mark it as used."""
        if finding.location is None:
            return False
        silenced = False
        lines = self.lines_of(finding.location.line) if self.found else set()
        for suppression in self.found:
            if suppression.kind == "ignore-file" or suppression.line in lines:
                code = suppression.means(finding)
                if code is not None:
                    suppression.used.add(code)
                    silenced = True
        return silenced

    def lines_of(self, line: int) -> set[int]:
        """Return the lines whose comments apply to a finding on `line`.

        They are that line and the first and last line of its statement, or of the head of a compound one.
        """
        span = statement_span(self._tree, line) if self._tree is not None else None
        return {line} if span is None else {line, *span}

    def statement_text(self, line: int) -> str | None:
        """Return the text of the statement on a line; None if there is none."""
        span = statement_span(self._tree, line) if self._tree is not None else None
        if span is None:
            return None if self._tree is not None else self.source.line(line)
        return "\n".join(self.source.line(n) for n in range(min(span), max(span) + 1))

    def unused(self, could: Callable[[str, int, str | None], str | None]) -> Iterator[Finding]:
        """Yield a finding for each comment with codes that suppressed nothing.

        Args:
            could: (code or name, line or 0 for the whole file, text of the statement or None) → why it is certain that
                a code had nothing to silence, in words; None where it is not.
        """
        for suppression in self.found:
            idle: dict[str, str] = {}
            for code in suppression.codes:
                if code not in suppression.used:
                    whole = suppression.kind == "ignore-file"
                    text = "" if whole else self.statement_text(suppression.line)
                    reason = could(code, 0 if whole else suppression.line, text)
                    if reason is not None and not (suppression.kind == "noqa" and not code.upper().startswith("GL")):
                        idle[code] = reason
            if idle:
                yield self._finding(suppression, idle)

    def _finding(self, suppression: Suppression, idle: dict[str, str]) -> Finding:
        place = Location(
            self.source.path, suppression.line, suppression.column, suppression.line, suppression.end_column
        )
        reasons = "; ".join(f"{code}: {reason}" for code, reason in idle.items())
        return Finding(
            target=self.source.path,
            code=UNUSED,
            name="unused-suppression",
            severity=Severity.WARNING,
            message=f"this comment suppresses nothing ({reasons}).",
            location=place,
            fix=Fix("Remove it.", safe=True, edits=(self._without(suppression, set(idle)),)),
        )

    def _without(self, suppression: Suppression, idle: set[str]) -> Edit:
        """Return the edit that removes codes from a comment, and the comment if none is left."""
        line = self.source.line(suppression.line)
        start, end = suppression.column - 1, suppression.end_column - 1
        remaining = [code for code in suppression.codes if code not in idle]
        if remaining:
            text = line[start:end]
            head, tail = ("[", "]") if suppression.kind != "noqa" else (":", "")
            new = f"{text[: text.index(head)]}{head}{' ' if not tail else ''}{', '.join(remaining)}{tail}"
            close = text.index("]") + 1 if tail else len(text)
            return Edit(self._at(suppression.line, start, start + close), new)
        rest = line[end:]
        before = line[:start]
        if rest.strip().startswith("#"):
            return Edit(self._at(suppression.line, start, end + len(rest) - len(rest.lstrip())), "")
        if before.strip():
            return Edit(self._at(suppression.line, len(before.rstrip()), len(line)), "")
        if suppression.line < len(self.source.starts):
            return Edit(Location(self.source.path, suppression.line, 1, suppression.line + 1, 1), "")
        return Edit(self._at(suppression.line, 0, len(line)), "")

    def _at(self, line: int, start: int, end: int) -> Location:
        return Location(self.source.path, line, start + 1, line, end + 1)


def _comments(source: SourceText) -> Iterator[Suppression]:
    if "gradlint:" not in source.text and "noqa" not in source.text.lower():
        return
    for line, column, text in comments(source.text):
        for match in _OWN.finditer(text):
            codes = _split(match["codes"])
            if match["codes"] is not None and not codes:
                continue  # empty brackets name nothing
            end = _end(text, match.end())
            yield Suppression(line, column + match.start(), column + end, codes, match["kind"].lower())
        for match in _NOQA.finditer(text):
            yield Suppression(line, column + match.start(), column + match.end(), _split(match["codes"]), "noqa")


def _end(text: str, position: int) -> int:
    """Return the end of our comment: behind its reason, before another ``#``."""
    reason = re.compile(r"\s*--[^#]*").match(text, position)
    return len(text[: reason.end()].rstrip()) if reason else position


def _split(codes: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(code for code in re.split(r"[,\s]+", codes or "") if code))


def comments(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield (line, column from 1, text) of each comment, up to a token error."""
    lines = iter(re.split(r"(?<=\n)", text.replace("\r\n", "\n").replace("\r", "\n")))
    try:
        for token in tokenize.generate_tokens(lambda: next(lines, "")):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.start[1] + 1, token.string
    except (tokenize.TokenError, SyntaxError, ValueError, RecursionError):
        return


def statement_span(tree: ast.Module, line: int) -> set[int] | None:
    """Return the first and last lines of the innermost statement on a line.

    Of a compound statement that is its head, with the first decorator. None if the line is in no statement.
    """
    statement: ast.stmt | None = None
    body: list[ast.AST] = list(tree.body)
    while body:
        inner = next((node for node in body if _first(node) <= line <= _last(node)), None)
        if inner is None:
            break
        if isinstance(inner, ast.stmt):
            statement = inner
        body = [child for name in ("body", "orelse", "finalbody", "handlers", "cases")
                for child in (getattr(inner, name, None) or ()) if isinstance(child, ast.AST)]  # fmt: skip
    if statement is None:
        return None
    children = getattr(statement, "body", None)
    if isinstance(children, list) and children:
        head_end = max(statement.lineno, _first(children[0]) - 1)
        return {_first(statement), statement.lineno, head_end} if line <= head_end else {line}
    return {statement.lineno, statement.end_lineno or statement.lineno}


def _first(node: ast.AST) -> int:
    decorators = getattr(node, "decorator_list", None) or ()
    if isinstance(node, ast.match_case):
        return int(node.pattern.lineno)
    return int(min([getattr(node, "lineno", 0), *(d.lineno for d in decorators)]))


def _last(node: ast.AST) -> int:
    if isinstance(node, ast.match_case):
        node = node.body[-1]
    return int(getattr(node, "end_lineno", None) or 0)


def all_of(paths: Iterable[str]) -> dict[str, FileSuppressions]:
    """Return the comments of each file that can be read."""
    by_path = {}
    for path in dict.fromkeys(paths):
        suppressions = FileSuppressions.of(path)
        if suppressions is not None:
            by_path[path] = suppressions
    return by_path
