"""Notebooks: the code cells of a Jupyter file as one source text, and back into its bytes.

The cells are joined in their order, with a line between them that no code has. Lines of IPython's own syntax become
Python of the same length, so that lines and columns stay. An edited text changes the source of its cells alone: every
other byte of the file stays.
"""

from __future__ import annotations

import ast
import difflib
import functools
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradlint.location import Location
from gradlint.source import overlay
from gradlint.source.magics import plain_lines
from gradlint.source.text import CELL_END, NOTEBOOK, BrokenNotebook, SourceText, Unreadable, parse

_SPACE = re.compile(r"[ \t\n\r]*")
_BREAK = re.compile(r"\r\n|\r|\n")
_CHARACTER = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|.", re.DOTALL
)
_decode = json.JSONDecoder().raw_decode


@dataclass(frozen=True)
class Cell:
    """One code cell."""

    number: int
    """Position among all cells of the notebook, from 1."""
    first: int
    """The number of its first line in the joined text."""
    lines: tuple[str, ...]
    """Its lines as they are written, without ends."""
    plain: tuple[str, ...]
    """The same as Python, each of the same length."""
    newline: str


class NotebookText(SourceText):
    """The code of a notebook; `text` is that of its code cells, `data` the whole file."""

    def __init__(self, path: str, data: bytes) -> None:
        """Read the cells of a notebook.

        Raises:
            BrokenNotebook: the bytes are no notebook of Python code.
        """
        self.path = path
        self.data = data
        self.encoding = "utf-8"
        self.bom = data.startswith(b"\xef\xbb\xbf")
        document = _document(data)
        language = _language(document)
        if language not in ("", "python", "ipython"):
            raise BrokenNotebook(f"its code is {language}, not Python")
        self.cells = tuple(_cells(document))
        self.text = f"\n{CELL_END}\n".join("\n".join(cell.plain) for cell in self.cells)

    def parsed(self) -> ast.Module:
        """Return the syntax tree of all cells.

        Raises:
            Unreadable: they have none; the place is that of the first cell that has none by itself.
        """
        try:
            return parse(self.text)
        except Unreadable:
            for cell in self.cells:
                try:
                    parse("\n".join(cell.plain))
                except Unreadable as error:
                    raise Unreadable(str(error), cell.first + error.line - 1, error.column) from error
            raise

    def cell_at(self, line: int) -> Cell | None:
        """Return the cell that holds a line of the joined text; None without cells."""
        return next((cell for cell in reversed(self.cells) if cell.first <= line), None)

    def originals(self, text: str) -> list[tuple[Cell, tuple[str, ...]]]:
        """Return the cells that an edited text changes, each with its lines to be written.

        Raises:
            UnicodeError: a line between two cells is gone, or an edit reaches into IPython's own syntax.
        """
        parts: list[list[str]] = [[]]
        for line in _BREAK.split(text):
            if line == CELL_END:
                parts.append([])
            else:
                parts[-1].append(line)
        if len(parts) != max(len(self.cells), 1):
            raise UnicodeError("the edit reaches beyond a cell")
        pairs = zip(self.cells, map(tuple, parts), strict=False)
        return [(cell, _restored(cell, lines)) for cell, lines in pairs if lines != cell.plain]

    def encoded(self, text: str) -> bytes:
        """Return the file with the cells of an edited text.

        Raises:
            UnicodeError: the text cannot be taken apart into cells.
        """
        whole = self.data.decode("utf-8-sig")
        for cell, lines in reversed(self.originals(text)):
            start, end = self._spans[cell.number]
            ended = [line + cell.newline for line in lines[:-1]] + ([lines[-1]] if lines and lines[-1] else [])
            whole = whole[:start] + _spelled(whole[start:end], ended, ascii_only=whole.isascii()) + whole[end:]
        return whole.encode("utf-8-sig" if self.bom else "utf-8")

    @functools.cached_property
    def _spans(self) -> dict[int, tuple[int, int]]:
        """Number of each cell → the span of its source in the text of the file."""
        whole = self.data.decode("utf-8-sig")
        members = {key: start for key, start, _ in _members(whole, _skip(whole, 0))}
        spans: dict[int, tuple[int, int]] = {}
        for number, (at, _, _) in enumerate(_elements(whole, members["cells"]), 1):
            spans.update((number, (start, end)) for key, start, end in _members(whole, at) if key == "source")
        return spans

    def place_in_file(self, line: int, column: int) -> tuple[int, int]:
        """Return the line and column in the file of a place in the joined text."""
        cell = self.cell_at(line)
        if cell is None:
            return 1, 1
        whole = self.data.decode("utf-8-sig")
        before = cell.lines[: line - cell.first]
        offset = sum(len(text) + len(cell.newline) for text in before) + column - 1
        start, _ = self._spans[cell.number]
        strings = [(start, *_decode(whole, start)[::-1])] if whole[start] == '"' else list(_elements(whole, start))
        for at, end, value in strings:
            if offset < len(value) or at == strings[-1][0]:
                raw = itertools.islice(_CHARACTER.finditer(whole, at + 1, end - 1), max(offset, 0))
                at = max((match.end() for match in raw), default=at + 1)
                return whole.count("\n", 0, at) + 1, at - whole.rfind("\n", 0, at)
            offset -= len(value)
        return 1, 1


def notebook(path: str) -> NotebookText | None:
    """Return the notebook at a path; None if there is none that can be read."""
    if not path.endswith(NOTEBOOK):
        return None
    try:
        return _read(path, overlay.read(path))
    except (OSError, Unreadable):
        return None


@functools.lru_cache(maxsize=8)
def _read(path: str, data: bytes) -> NotebookText:
    return NotebookText(path, data)


def within_cell(place: Location) -> tuple[int, Location]:
    """Return (number of its cell, place in the cell), or (0, place) outside of notebooks."""
    book = notebook(place.path)
    cell = book.cell_at(place.line) if book is not None else None
    if cell is None:
        return 0, place
    end = max(place.end_line, place.line) - cell.first + 1
    return cell.number, replace(
        place, line=place.line - cell.first + 1, end_line=min(end, len(cell.lines)) if place.end_line else 0
    )


def in_file(place: Location) -> Location:
    """Return the place in the JSON of a notebook, or any other place as it is."""
    book = notebook(place.path)
    if book is None:
        return place
    line, column = book.place_in_file(place.line, place.column)
    end_line, end_column = 0, 0
    if place.end_column:
        end_line, end_column = book.place_in_file(place.end_line or place.line, place.end_column)
    return Location(place.path, line, column, end_line, end_column)


def is_foreign(data: bytes) -> bool:
    """Return True if the bytes are a notebook in another language than Python."""
    try:
        NotebookText("", data)
    except BrokenNotebook as error:
        return str(error).startswith("its code is")
    return False


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise BrokenNotebook(f"it is not UTF-8: {error.reason}", data.count(b"\n", 0, error.start) + 1) from error
    except json.JSONDecodeError as error:
        what = "it is empty" if not data.strip() else f"it is not valid JSON: {error.msg}"
        raise BrokenNotebook(what, error.lineno, error.colno) from error
    except (RecursionError, ValueError) as error:
        raise BrokenNotebook("its JSON is nested too deeply or holds too long a number") from error
    if not isinstance(document, dict):
        raise BrokenNotebook("it is JSON, and no notebook")
    version = document.get("nbformat")
    if "worksheets" in document or (isinstance(version, int) and version < 4):
        raise BrokenNotebook(
            f"its format is {version}, and 4 is the oldest that gradlint reads; "
            "`jupyter nbconvert --to notebook --inplace` converts it"
        )
    if not isinstance(document.get("cells"), list):
        raise BrokenNotebook("it has no list of cells")
    return document


def _language(document: dict[str, Any]) -> str:
    """Return the language of the kernel in lower case; empty if the notebook does not say it."""
    metadata = document.get("metadata")
    tables = [metadata.get(key) for key in ("language_info", "kernelspec")] if isinstance(metadata, dict) else []
    names = [
        table.get(key) for table, key in zip(tables, ("name", "language"), strict=False) if isinstance(table, dict)
    ]
    return next((name.lower() for name in names if isinstance(name, str) and name), "")


def _cells(document: dict[str, Any]) -> Iterator[Cell]:
    first = 1
    for number, cell in enumerate(document["cells"], 1):
        kind = cell.get("cell_type") if isinstance(cell, dict) else None
        if not isinstance(kind, str):
            raise BrokenNotebook(f"cell {number} has no type")
        if kind != "code":
            continue
        source = cell.get("source")
        if isinstance(source, list) and all(isinstance(part, str) for part in source):
            source = "".join(source)
        if not isinstance(source, str):
            raise BrokenNotebook(f"the source of cell {number} is neither a text nor a list of texts")
        lines = tuple(_BREAK.split(source))
        newline = _BREAK.search(source)
        yield Cell(number, first, lines, tuple(plain_lines(lines)), newline.group() if newline else "\n")
        first += len(lines) + 1


def _restored(cell: Cell, new: Sequence[str]) -> tuple[str, ...]:
    """Return edited lines with IPython's own syntax as it was.

    Raises:
        UnicodeError: an edit reaches into it.
    """
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(None, cell.plain, new, autojunk=False)
    for kind, start, end, first, last in matcher.get_opcodes():
        if kind == "equal":
            lines += cell.lines[start:end]
            continue
        changed = list(new[first:last])
        for number in range(start, end):
            old, plain = cell.lines[number], cell.plain[number]
            if old != plain:
                where = number - start
                size = next((n for n in range(len(old), -1, -1) if old[n:] != plain[n:]), 0) + 1
                if end - start != last - first or not changed[where].startswith(plain[:size]):
                    raise UnicodeError("the edit reaches into a magic")
                changed[where] = old[:size] + changed[where][size:]
        lines += changed
    return tuple(lines)


def _spelled(old: str, lines: Sequence[str], *, ascii_only: bool) -> str:
    """Return the source of a cell as JSON, laid out and spelled as the old one."""
    if not old.startswith("["):
        return json.dumps("".join(lines), ensure_ascii=ascii_only)
    elements = list(_elements(old, 0))
    known = {value: old[start:end] for start, end, value in elements}
    spelled = [known.get(line) or json.dumps(line, ensure_ascii=ascii_only) for line in lines]
    opening, closing = old[1 : _skip(old, 1)], old[len(old[:-1].rstrip(" \t\r\n")) : -1]
    separator = f",{opening}" if opening else ", "
    if len(elements) > 1:
        separator = old[elements[0][1] : elements[1][0]]
    return f"[{opening}{separator.join(spelled)}{closing}]" if spelled else "[]"


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    assert match is not None
    return match.end()


def _elements(text: str, at: int) -> Iterator[tuple[int, int, Any]]:
    """Yield (start, end, value) of each element of the array at an offset into valid JSON."""
    at = _skip(text, at + 1)
    while text[at] != "]":
        value, end = _decode(text, at)
        yield at, end, value
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at


def _members(text: str, at: int) -> Iterator[tuple[str, int, int]]:
    """Yield (key, start, end) of each value of the object at an offset into valid JSON."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, end = _decode(text, at)
        start = _skip(text, _skip(text, end) + 1)
        _, end = _decode(text, start)
        yield key, start, end
        at = _skip(text, end)
        at = _skip(text, at + 1) if text[at] == "," else at
