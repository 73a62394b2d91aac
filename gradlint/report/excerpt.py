"""Source excerpts: the blamed lines with the span underlined, whatever the file holds."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.location import Location
from gradlint.report.view import View, cell_lines, cells, char_cells, within_cell
from gradlint.source.files import source_lines

CONTEXT = 2
"""Lines shown before and after the blamed ones."""
LONGEST = 6
"""Blamed lines shown in full; of longer spans the middle is left out."""
TAB = 4


@dataclass(frozen=True)
class Row:
    """One line of an excerpt."""

    gutter: str
    """The line number, or spaces of the same width."""
    text: str
    marks: str = ""
    """The underline that belongs below the text; empty where nothing is blamed."""


def excerpt(location: Location, view: View, width: int, context: int = CONTEXT) -> list[Row]:
    """Return the blamed lines of a location with `context` lines around, cut to `width` cells.

    Returns:
        The rows from top to bottom; empty when the file or the line is not there.
    """
    cell, location = within_cell(location)
    lines = cell_lines(location.path, cell) if cell else source_lines(location.path)
    if not 1 <= location.line <= len(lines):
        return []
    last = min(max(location.end_line, location.line), len(lines))
    numbers = _numbers(location.line, last, len(lines), context)
    while numbers and context and not lines[numbers[-1] - 1].strip() and numbers[-1] > last:
        numbers.pop()
    while numbers and context and not lines[numbers[0] - 1].strip() and 0 < numbers[0] < location.line:
        numbers.pop(0)
    digits = len(str(numbers[-1]))
    room = max(width - digits - 3, 12)
    shift = _shared_indent([lines[n - 1] for n in numbers if n]) if room < 60 else 0
    rows = []
    for number in numbers:
        if not number:
            rows.append(Row(" " * digits, view.dots))
            continue
        line = lines[number - 1]
        start, end = _span(location, number, last, line)
        rows.append(Row(f"{number:{digits}}", *_row(line, start, end, shift, room, view)))
    return rows


def _numbers(first: int, last: int, total: int, context: int) -> list[int]:
    """Return the line numbers to show; 0 for lines left out."""
    blamed = list(range(first, last + 1))
    if len(blamed) > LONGEST:
        blamed = [*blamed[: LONGEST - 2], 0, blamed[-1]]
    before = range(max(first - context, 1), first)
    after = range(last + 1, min(last + context, total) + 1)
    return [*before, *blamed, *after]


def _span(location: Location, number: int, last: int, line: str) -> tuple[int, int]:
    """Return the blamed characters of a line, from 0, end exclusive; equal if none is blamed."""
    if not location.line <= number <= last:
        return 0, 0
    indent = len(line) - len(line.lstrip())
    start = location.column - 1 if number == location.line else indent
    end = location.end_column - 1 if number == last and location.end_column else len(line.rstrip())
    start = max(min(start, len(line)), min(indent, len(line)), 0) if line.strip() else 0
    return start, max(min(end, len(line)), start + (number == location.line))


def _shared_indent(lines: list[str]) -> int:
    expanded = [line.expandtabs(TAB) for line in lines if line.strip()]
    return min((len(line) - len(line.lstrip(" ")) for line in expanded), default=0)


def _row(line: str, start: int, end: int, shift: int, room: int, view: View) -> tuple[str, str]:
    """Return text and underline of a line, without the first `shift` cells, cut to `room` cells."""
    shown: list[tuple[str, int, bool]] = []  # printable text, cells, blamed
    column = 0
    for index, char in enumerate(line.rstrip("\n")):
        text = " " * (TAB - column % TAB) if char == "\t" else view.char(char)
        width = cells(text)
        shown += [(piece, char_cells(piece), start <= index < end) for piece in text]
        column += width
    if start >= len(line) and end > start:
        shown.append((" ", 1, True))
    if not any(blamed for *_, blamed in shown):
        start = end = 0
    while shift > 0 and shown and shown[0][0] == " " and not shown[0][2]:
        shift -= shown.pop(0)[1]
    if sum(width for _, width, _ in shown) > room:
        shown = _window(shown, room, view)
    text = "".join(piece for piece, *_ in shown).rstrip()
    marks = "".join(("^" if blamed else " ") * width for _, width, blamed in shown).rstrip()
    return text, marks


def _window(shown: list[tuple[str, int, bool]], room: int, view: View) -> list[tuple[str, int, bool]]:
    """Cut a long line so that the start of the blamed span stays visible."""
    dots = [(dot, 1, False) for dot in view.dots]
    first = next((i for i, (*_, blamed) in enumerate(shown) if blamed), 0)
    offset = sum(width for _, width, _ in shown[:first])
    span = sum(width for _, width, blamed in shown if blamed)
    start = 0 if offset + min(span, room // 2) <= room - len(dots) else max(first - room // 4, 0)
    pieces = list(dots) if start else []
    used = len(pieces)
    rest = sum(width for _, width, _ in shown[start:])
    for piece in shown[start:]:
        if used + rest > room and used + piece[1] > room - len(dots):
            return [*pieces, *dots]
        pieces.append(piece)
        used += piece[1]
        rest -= piece[1]
    return pieces
