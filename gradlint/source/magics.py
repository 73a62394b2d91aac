"""IPython's own syntax in the cell of a notebook, made Python of the same length."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence

PYTHON_CELLS = frozenset({"capture", "debug", "gradlint", "memit", "prun", "time", "timeit", "wandb"})
"""The cell magics that run the rest of the cell as the Python code that it is."""
_ESCAPES = tuple("%!?,;/")
_CELL = re.compile(r"\s*%%(\w+)")
_TIMED = re.compile(r"%(?:time|timeit|memit|prun)(?:\s+-\w+(?:\s+\d+)?)*\s+(?=\S)")
_ASSIGNED = re.compile(r"\s*[A-Za-z_][\w.,*\s\[\]]*=\s*(?=[%!]\S)")
_HELP = re.compile(r"\s*%{0,2}[A-Za-z_*][\w.*\[\]]*\?{1,2}\s*(?:;|#.*)?")
_PIECE = re.compile(r"'''|\"\"\"|'|\"|#|[(\[{]|[)\]}]|\\$")


def plain_lines(lines: Sequence[str]) -> Iterator[str]:
    """Yield the lines of a cell as Python.

    A magic, a shell command or a question becomes a comment or an expression without effect. What `%time` runs stays.
    The lines of a cell in another language become blank.
    """
    state = _State()
    is_head = is_python = True
    is_continued = False
    for line in lines:
        if is_continued or not is_python:
            is_continued = is_continued and line.endswith("\\")
            yield " " * len(line)
            continue
        head = _CELL.match(line) if is_head else None
        if head is not None:
            is_python = head[1] in PYTHON_CELLS
            yield _without_effect(line)
            continue
        is_head = is_head and not line.strip()
        plain = _plain(line) if state.is_between_statements else line
        if plain == line:
            state.read(line)
        else:
            is_continued = line.endswith("\\")
        yield plain


def _plain(line: str) -> str:
    body = line.lstrip()
    if body.startswith(_ESCAPES):
        timed = _TIMED.match(body)
        if timed is not None and _is_statement(body[timed.end() :]):
            return line[: len(line) - len(body)] + "pass;".ljust(timed.end()) + body[timed.end() :]
        return _without_effect(line)
    if "?" in line and _HELP.fullmatch(line):
        return _without_effect(line)
    assigned = _ASSIGNED.match(line) if "=" in line else None
    return f"{assigned.group()}[]".ljust(len(line)) if assigned is not None else line


def _without_effect(line: str) -> str:
    """Return a comment, or inside of a block an expression, which a block may consist of."""
    indent = len(line) - len(line.lstrip())
    return f"{line[:indent]}0".ljust(len(line)) if indent else f"#{line[1:]}"


def _is_statement(text: str) -> bool:
    """Return True if a text is one statement that may stand behind a semicolon."""
    try:
        body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError):
        return False
    return bool(body) and not hasattr(body[0], "body")


class _State:
    """What the lines read so far leave open: brackets, a string, a backslash."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._continues = False

    @property
    def is_between_statements(self) -> bool:
        return not (self._depth or self._quote or self._continues)

    def read(self, line: str) -> None:
        """Read one more line of Python."""
        at = 0
        self._continues = False
        while at <= len(line):
            if self._quote:
                closed = re.compile(rf"(?:[^\\]|\\.)*?{self._quote}", re.DOTALL).match(line, at)
                if closed is None:
                    if len(self._quote) == 1 and not line.endswith("\\"):
                        self._quote = ""  # it is a syntax error
                    return
                self._quote, at = "", closed.end()
            piece = _PIECE.search(line, at)
            if piece is None or piece.group() == "#":
                return
            at = piece.end()
            text = piece.group()
            if text in "([{":
                self._depth += 1
            elif text in ")]}":
                self._depth = max(self._depth - 1, 0)
            elif text == "\\":
                self._continues = True
            else:
                self._quote = text
