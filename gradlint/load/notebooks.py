"""Notebooks as modules: their code cells, run in order as one text."""

from __future__ import annotations

import ast
import inspect
import linecache
import traceback
from collections.abc import Sequence
from types import CodeType
from typing import Any

from gradlint.errors import TargetError
from gradlint.load import event_loop
from gradlint.location import Location
from gradlint.source.notebook import NotebookText, notebook, within_cell
from gradlint.source.text import CELL_END, NOTEBOOK, Unreadable
from gradlint.system import reading
from gradlint.wording import inflect, plural


def is_notebook(path: str) -> bool:
    """Return True if a file is a notebook, as its name says."""
    return path.endswith(NOTEBOOK)


def code_of(path: str, label: str, attribute: str = "") -> CodeType:
    """Return the code of a notebook's cells, with magics and shell lines left out.

    Args:
        path: the file; tracebacks find its lines from now on.
        label: the file as the user wrote it, for messages.
        attribute: leave out the cells behind the last one that binds this name.

    Raises:
        TargetError: it cannot be read, is no notebook of Python code, or a cell has a syntax error.
    """
    try:
        book = NotebookText(path, reading.read(path))
        _keep_lines(path, book)
        tree = book.parsed()
    except OSError as error:
        raise TargetError(f"{label} cannot be read: {error.strerror or error}") from error
    except Unreadable as error:
        number, place = within_cell(Location(path, error.line))
        where = f"{label}:cell {number}:{place.line}" if number else label
        raise TargetError(f"{where} cannot be run: {error}") from error
    last = _last_line(book, tree, attribute) if attribute else 0
    if last:
        tree.body = [statement for statement in tree.body if statement.lineno <= last]
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    code: CodeType = compile(tree, path, "exec", flags=flags, dont_inherit=True)
    return code


def execute(code: CodeType, namespace: dict[str, Any]) -> None:
    """Run the code of a notebook in the namespace of a module; await what its cells await."""
    namespace.setdefault("display", print)
    namespace.setdefault("get_ipython", lambda: None)
    if code.co_flags & inspect.CO_COROUTINE:
        event_loop.run(eval(code, namespace))
    else:
        exec(code, namespace)


def what_is_skipped(path: str, attribute: str = "") -> str:
    """Return in words which lines and cells of a notebook are not run; empty if all are."""
    book = notebook(path) if is_notebook(path) else None
    if book is None:
        return ""
    places = [
        (cell.number, number, line)
        for cell in book.cells
        for number, (line, plain) in enumerate(zip(cell.lines, cell.plain, strict=True), 1)
        if line != plain and line.strip() and not line.lstrip().startswith("%%gradlint")
    ]
    parts = []
    if places:
        first, number, line = places[0]
        shown = line.strip() if len(line.strip()) <= 40 else f"{line.strip()[:37]}..."
        lines = f"{plural(len(places), 'line')} of magics and shell commands {inflect(places, 'are')} skipped"
        parts.append(f"{lines}, the first is `{shown}` at cell {first}:{number}")
    try:
        last = _last_line(book, book.parsed(), attribute) if attribute else 0
    except Unreadable:
        last = 0
    behind = [cell.number for cell in book.cells if last and cell.first > last]
    if len(behind) == 1:
        parts.append(f"the cell behind {attribute} ({behind[0]}) is not run")
    elif behind:
        parts.append(f"the cells behind {attribute} ({behind[0]} to {behind[-1]}) are not run")
    return "; ".join(parts)


def with_cells(frames: Sequence[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    """Return the frames of a traceback, those of notebooks with the cell and its line."""
    return [_with_cell(frame) if is_notebook(frame.filename) else frame for frame in frames]


def _with_cell(frame: traceback.FrameSummary) -> traceback.FrameSummary:
    number, place = within_cell(Location(frame.filename, frame.lineno or 1))
    if not number:
        return frame
    return traceback.FrameSummary(
        f"{frame.filename}:cell {number}", place.line, frame.name, lookup_line=False, line=frame.line
    )


def _keep_lines(path: str, book: NotebookText) -> None:
    lines = [f"{line}\n" if line != CELL_END else "\n" for line in book.text.split("\n")]
    linecache.cache[path] = (len(book.text), None, lines, path)


def _last_line(book: NotebookText, tree: ast.Module, attribute: str) -> int:
    """Return the last line of the last cell that binds a name at its top level; 0 if none does."""
    name = attribute.partition(".")[0]
    lines = [statement.lineno for statement in tree.body if name in _bound(statement)]
    cell = book.cell_at(lines[-1]) if lines else None
    return cell.first + len(cell.lines) - 1 if cell is not None else 0


def _bound(statement: ast.stmt) -> set[str]:
    if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return {statement.name}
    if isinstance(statement, (ast.Import, ast.ImportFrom)):
        return {alias.asname or alias.name for alias in statement.names}
    return {n.id for n in ast.walk(statement) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
