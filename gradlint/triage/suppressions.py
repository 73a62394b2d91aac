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
from gradlint.source.text import CELL_END, SourceText, Unreadable

UNUSED = "GL001"
_OWN = re.compile(
    r"#\s*gradlint:\s*(?P<kind>ignore-file|ignore|disable|enable)\b\s*(?:\[(?P<codes>[^\]]*)\])?", re.IGNORECASE
)
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
    """``ignore``, ``ignore-file``, ``disable``, ``enable`` or ``noqa``."""
    below: int = 0
    """The line of code below a comment that stands alone; 0 for any other."""
    last: int = 0
    """The last line of the block that it begins; 0 if it begins none."""
    partner: Suppression | None = None
    """The comment at the other end of its block."""
    used: set[str] = field(default_factory=set)
    """Codes that suppressed a finding."""

    def applies_to(self, line: int, lines: set[int]) -> bool:
        """Return True if it is about a line.

        Args:
            line: the line.
            lines: the line, and the first and the last of its statement.
        """
        if self.kind in ("disable", "enable"):
            return self.line <= line <= self.last
        return self.kind == "ignore-file" or self.line in lines or self.below in lines

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
        _pair(self.found, source)

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
            if suppression.applies_to(finding.location.line, lines):
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
                    reason = self._why_idle(suppression, code, could)
                    if reason is not None and not (suppression.kind == "noqa" and not code.upper().startswith("GL")):
                        idle[code] = reason
            if idle:
                yield self._finding(suppression, idle)

    def _why_idle(
        self, suppression: Suppression, code: str, could: Callable[[str, int, str | None], str | None]
    ) -> str | None:
        if suppression.kind == "enable":
            return None if suppression.partner else "no disable of the same rules stands before it in its block"
        if suppression.kind == "disable" and not suppression.below:
            return "it begins no block"
        if suppression.kind == "ignore-file":
            return could(code, 0, "")
        if suppression.kind == "disable":
            held = range(suppression.line + 1, suppression.last + 1)
            code_lines = [n for n in held if _is_code(self.source.line(n))]
            reasons = [could(code, n, self.statement_text(n)) for n in code_lines]
            return "it holds no code" if not reasons else None if None in reasons else "no finding in this block"
        line = suppression.line
        if suppression.below and self.statement_text(line) is None:
            line = suppression.below
        return could(code, line, self.statement_text(line))

    def _finding(self, suppression: Suppression, idle: dict[str, str]) -> Finding:
        place = Location(
            self.source.path, suppression.line, suppression.column, suppression.line, suppression.end_column
        )
        ends = [suppression, *([suppression.partner] if suppression.partner is not None else [])]
        edits = tuple(self._without(end, set(idle)) for end in ends)
        reasons = "; ".join(f"{code}: {reason}" for code, reason in idle.items())
        return Finding(
            target=self.source.path,
            code=UNUSED,
            name="unused-suppression",
            severity=Severity.WARNING,
            message=f"this comment suppresses nothing ({reasons}).",
            location=place,
            fix=Fix("Remove it.", safe=True, edits=edits),
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
            kind = match["kind"].lower()
            below = _below(source, line) if kind != "ignore-file" and source.line(line).lstrip() == text else 0
            yield Suppression(line, column + match.start(), column + end, codes, kind, below=below)
        for match in _NOQA.finditer(text):
            yield Suppression(line, column + match.start(), column + match.end(), _split(match["codes"]), "noqa")


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def _below(source: SourceText, line: int) -> int:
    """Return the next line of code in the same cell; 0 without one."""
    for number in range(line + 1, len(source.starts) + 1):
        text = source.line(number)
        if text == CELL_END:
            break
        if _is_code(text):
            return number
    return 0


def _pair(found: Iterable[Suppression], source: SourceText) -> None:
    """Give each comment that begins a block its end.

    That is the next comment of the same column that ends these rules. Without one it is the end of the indented block,
    of the cell or of the file.
    """
    opened: list[Suppression] = []
    for suppression in found:
        if suppression.kind == "disable" and suppression.codes and suppression.below:
            suppression.last = _end_of_block(source, suppression)
            opened.append(suppression)
        elif suppression.kind == "enable":
            for begun in reversed(opened):
                same = set(begun.codes) == set(suppression.codes) and begun.column == suppression.column
                if same and suppression.line <= begun.last + 1:
                    begun.last, begun.partner, suppression.partner = suppression.line, suppression, begun
                    opened.remove(begun)
                    break


def _end_of_block(source: SourceText, begun: Suppression) -> int:
    """Return the last line that is indented as far as a comment."""
    for number in range(begun.line + 1, len(source.starts) + 1):
        text = source.line(number)
        if text == CELL_END or (text.strip() and len(text) - len(text.lstrip()) < begun.column - 1):
            return number - 1
    return len(source.starts)


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
