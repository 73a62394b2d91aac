"""Text that can be shown anywhere: printable, measured in terminal cells, wrapped."""

from __future__ import annotations

import re
import sys
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gradlint.findings import Failure, Finding
from gradlint.location import Location
from gradlint.source.text import NOTEBOOK
from gradlint.system import legible

_BOXES = {ord(char): plain for char, plain in zip("─━│┃┏┓┗┛┌┐└┘├┤•▌", "--||++++++++++*|", strict=True)}


@dataclass(frozen=True)
class View:
    """The place where a report is read: width, colours, encoding."""

    width: int = 80
    """Columns."""
    color: bool = False
    terminal: bool = False
    """True if a person looks at it; box characters are used only then."""
    encoding: str = "utf-8"
    verbose: bool = False
    quiet: bool = False
    """True if findings alone are shown."""
    root: Path = Path()
    """Paths below it are shown relative to it."""

    @cached_property
    def unicode(self) -> bool:
        """True if box characters and the like may be used."""
        return self.terminal and self.encoding.lower().replace("-", "").replace("_", "") in ("utf8", "utf8sig")

    @property
    def bar(self) -> str:
        """The line between line numbers and source."""
        return "│" if self.unicode else "|"

    @property
    def dots(self) -> str:
        """The sign for an omission."""
        return "…" if self.unicode else "..."

    def char(self, char: str) -> str:
        """Return a character as it can be shown.

        Control characters and characters that the encoding lacks become escapes.
        """
        char = legible.char(char)
        if not char.isascii():
            try:
                char.encode(self.encoding)
            except (UnicodeEncodeError, LookupError):
                return char.encode("ascii", "backslashreplace").decode()
        return char

    def clean(self, text: str) -> str:
        """Return one line of safe text that the encoding has."""
        text = legible.one_line(text)
        return text if text.isascii() else "".join(map(self.char, text))

    def keep(self, text: str) -> str:
        """Return text that may contain colour codes.

        Characters that the encoding lacks become escapes, and box characters ASCII.
        """
        if not self.unicode:
            text = text.translate(_BOXES)
        return text.encode(self.encoding, "backslashreplace").decode(self.encoding)

    def lines(self, text: str) -> list[str]:
        """Return the lines of a text, each as `clean` but with its indentation."""
        return ["".join(map(self.char, line.expandtabs(4))) for line in re.split(r"\r\n|\r|\n", text)]


def cells(text: str) -> int:
    """Return the width of a text in terminal cells."""
    if text.isascii():
        return len(text)
    return sum(map(char_cells, text))


def char_cells(char: str) -> int:
    """Return the width of a character in terminal cells."""
    if unicodedata.combining(char) or unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def wrap(text: str, width: int) -> list[str]:
    """Break printable text at spaces into lines of at most `width` cells.

    Longer words are broken anywhere. There is at least one line.
    """
    width = max(width, 8)
    lines, line, used = [], "", 0
    for word in text.split():
        need = cells(word)
        if line and used + 1 + need > width:
            lines.append(line)
            line, used = "", 0
        elif line:
            line, used = line + " ", used + 1
        while used + need > width:
            head, word = _cut(word, width - used)
            lines.append(line + head)
            line, used, need = "", 0, cells(word)
        line, used = line + word, used + need
    return [*lines, line] if line or not lines else lines


def _cut(word: str, width: int) -> tuple[str, str]:
    """Split a word so that the head fits.

    Where possible the head ends after a dot, slash, comma or underscore.
    """
    used = end = 0
    while end < len(word) and (used := used + char_cells(word[end])) <= width:
        end += 1
    nice = max((word.rfind(mark, end // 2, end) for mark in "./,_\\:"), default=-1) + 1
    end = nice or max(end, 1)
    return word[:end], word[end:]


def shown_path(path: str, root: Path) -> str:
    """Return a path as reports show it: relative to `root` if below, with forward slashes.

    The code of a cell of an IPython session is ``In[3]``.
    """
    if not path or path.startswith("<"):
        return path
    if "IPython" in sys.modules and (cell := _cell_of_session(path)):
        return cell
    base = root.absolute()
    for candidate, below in ((Path(path), base), (_resolved(path), _resolved(str(base)))):
        try:
            return candidate.relative_to(below).as_posix()
        except ValueError:
            continue
    return Path(path).as_posix()


def _cell_of_session(path: str) -> str:
    """Return the name of a cell that this session ran; empty for other files."""
    shell = getattr(sys.modules["IPython"], "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda _: None)(path)
    return str(named[1]) if named else ""


def file_of_target(of: Finding | Failure) -> str:
    """Return the file in the name of a target, as reports that need one show it."""
    head, colon, _ = of.target.rpartition(":")
    return (head if colon else of.target) or "."


def cut(text: str, room: int) -> str:
    """Return a text of at most so many characters, cut between words."""
    return text if len(text) <= room else f"{text[: max(room - 3, 0)].rsplit(' ', 1)[0]}..."


def shown_place(place: Location, root: Path, *, column: bool = True) -> str:
    """Return ``path:line:column`` as reports show it; in a notebook ``path:cell 3:line:column``."""
    cell, place = within_cell(place)
    parts = [shown_path(place.path, root), *([f"cell {cell}"] if cell else []), str(place.line)]
    return ":".join([*parts, str(place.column)] if column else parts)


def within_cell(place: Location) -> tuple[int, Location]:
    """Return (number of its cell, place in the cell), or (0, place) outside of notebooks."""
    if not place.path.endswith(NOTEBOOK):
        return 0, place
    from gradlint.source.notebook import within_cell  # not needed otherwise

    return within_cell(place)


def cell_lines(path: str, number: int) -> tuple[str, ...]:
    """Return the lines of a cell of a notebook as they are written."""
    from gradlint.source.notebook import notebook  # not needed otherwise

    book = notebook(path)
    return next((cell.lines for cell in book.cells if cell.number == number), ()) if book is not None else ()


def in_file(place: Location) -> Location:
    """Return a place as its file has it: of a notebook, the lines of the JSON that hold it."""
    if not place.path.endswith(NOTEBOOK):
        return place
    from gradlint.source.notebook import in_file  # not needed otherwise

    return in_file(place)


def _resolved(path: str) -> Path:
    try:
        return Path(path).resolve()
    except (OSError, ValueError, RuntimeError):
        return Path(path)
