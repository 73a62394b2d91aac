"""A source file as bytes, text and lines, with the lines and columns of reports and edits."""

from __future__ import annotations

import ast
import io
import re
import tokenize
import warnings
from functools import cached_property

from gradlint.location import Location

_CARRIAGE = re.compile(rb"\r\n?")
_BREAK = re.compile(r"\r\n|\r|\n")
NOTEBOOK = ".ipynb"
"""The suffix of notebooks."""


CELL_END = "#\x1f"
"""The line between two cells of a notebook."""


class Unreadable(Exception):
    """A file that is no Python source.

    Attributes:
        line, column: where, from 1.
    """

    def __init__(self, message: str, line: int = 1, column: int = 1) -> None:
        super().__init__(message)
        self.line = max(line, 1)
        self.column = max(column, 1)


class BrokenNotebook(Unreadable):
    """A file that should be a notebook of Python code and is none."""


class SourceText:
    """The text of one file.

    Line ends, the byte-order mark and the encoding are kept apart from the text, so that an edited text can be written
    back as the file was.
    """

    def __init__(self, path: str, data: bytes) -> None:
        """Decode the bytes of a file.

        Raises:
            Unreadable: the bytes are no text in the encoding that the file declares.
        """
        self.path = path
        self.data = data
        try:
            # Lines may end in a carriage return alone, which detect_encoding does not know.
            lines = io.BytesIO(_CARRIAGE.sub(b"\n", data) if b"\r" in data else data)
            self.encoding, _ = tokenize.detect_encoding(lines.readline)
            text = data.decode(self.encoding)
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise Unreadable(f"it is not {error.encoding}: {error.reason}", line) from error
        except (SyntaxError, LookupError, ValueError) as error:
            raise Unreadable(getattr(error, "msg", None) or str(error)) from error
        self.bom = text.startswith("\ufeff")  # utf-8-sig has taken it away
        self.text = text[1:] if self.bom else text
        """The decoded text with its line ends as they are."""

    @cached_property
    def starts(self) -> list[int]:
        """Offset of the start of each line. Lines end as Python's parser sees it: not at form feeds."""
        return [0, *(match.end() for match in _BREAK.finditer(self.text))]

    def line(self, number: int) -> str:
        """Return a line by its number from 1, without its end; empty if there is none."""
        if not 1 <= number <= len(self.starts):
            return ""
        end = self.starts[number] if number < len(self.starts) else len(self.text)
        return self.text[self.starts[number - 1] : end].rstrip("\r\n")

    def characters(self, number: int, offset: int) -> int:
        """Convert a byte offset into a line, as syntax trees count, to characters."""
        line = self.line(number)
        if line.isascii():
            return offset
        return len(line.encode("utf-8", "surrogatepass")[:offset].decode("utf-8", "replace"))

    def location(self, node: ast.AST) -> Location:
        """Return the span of a node."""
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0)
        end_line = getattr(node, "end_lineno", None) or line
        end = getattr(node, "end_col_offset", None)
        return Location(
            self.path,
            line,
            self.characters(line, column) + 1,
            end_line,
            0 if end is None else self.characters(end_line, end) + 1,
        )

    def offset(self, line: int, column: int) -> int:
        """Return the offset of a place, counted from 1, into the text."""
        start = self.starts[min(line, len(self.starts)) - 1]
        return min(start + column - 1, len(self.text))

    def slice(self, place: Location) -> str:
        """Return the text of a span."""
        end = self.offset(place.end_line or place.line, place.end_column or place.column)
        return self.text[self.offset(place.line, place.column) : end]

    def encoded(self, text: str) -> bytes:
        """Encode another text as this file is encoded.

        Raises:
            UnicodeError: its encoding has no such character, or would change other parts of the text too.
        """
        if self._encoded(self.text) != self.data:
            raise UnicodeError(f"the file is not written as {self.encoding} writes its text")
        return self._encoded(text)

    def _encoded(self, text: str) -> bytes:
        return (("\ufeff" if self.bom else "") + text).encode(self.encoding)

    def parsed(self) -> ast.Module:
        """Return the syntax tree.

        Raises:
            Unreadable: there is none.
        """
        return parse(self.text)

    @property
    def newline(self) -> str:
        """The first line's end."""
        match = _BREAK.search(self.text)
        return match.group() if match else "\n"


def parse(text: str) -> ast.Module:
    """Return the syntax tree of a text.

    Raises:
        Unreadable: it has none.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # other linters report invalid escapes
            return ast.parse(text)
    except SyntaxError as error:
        raise Unreadable(error.msg or "invalid syntax", error.lineno or 1, error.offset or 1) from error
    except (ValueError, RecursionError, MemoryError) as error:
        what = str(error) if isinstance(error, ValueError) else "it is nested too deeply to be parsed"
        raise Unreadable(what or type(error).__name__) from error
