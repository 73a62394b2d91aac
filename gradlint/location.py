"""Spans of source text."""

from __future__ import annotations

import ast
import linecache
import os
from dataclasses import dataclass
from types import CodeType
from typing import NamedTuple


class Code(NamedTuple):
    """The code of a function, as plain data; its fields have the names of a code object's."""

    co_filename: str
    co_name: str
    co_firstlineno: int

    @classmethod
    def of(cls, code: CodeType) -> Code:
        """Return the plain data of a code object."""
        return cls(code.co_filename, code.co_name, code.co_firstlineno)


@dataclass(frozen=True, order=True)
class Location:
    """A span of source text. Lines and columns count from 1; the end column is exclusive."""

    path: str
    """Absolute path of the file."""
    line: int
    column: int = 1
    end_line: int = 0
    """0: the same as `line`."""
    end_column: int = 0
    """0: unknown; show the whole line."""


def source_path(name: str) -> str:
    """Return the absolute path of a code object's file.

    A name that is no path, as ``<string>``, is returned as it is if the program removed its working directory.
    """
    try:
        return os.path.abspath(name)
    except FileNotFoundError:
        return name


def characters(path: str, line: int, offset: int) -> int:
    """Return a byte offset into a line of source as a count of characters."""
    text = linecache.getline(path, line)
    if text.isascii():
        return offset
    return len(text.encode()[:offset].decode(errors="replace"))


def statement_location(path: str, line: int) -> Location:
    """Return the span of the text of one line, without indentation and trailing blanks."""
    text = linecache.getline(path, line).rstrip("\n")
    stripped = text.strip()
    if not stripped:
        return Location(path, line)
    start = len(text) - len(text.lstrip())
    return Location(path, line, start + 1, line, start + len(stripped) + 1)


def node_location(path: str, node: ast.expr | ast.stmt, before: int = 0) -> Location:
    """Return the span of a syntax-tree node, widened by `before` characters to the left."""
    end_line = node.end_lineno or node.lineno
    end = node.end_col_offset
    return Location(
        path,
        node.lineno,
        max(1, characters(path, node.lineno, node.col_offset) + 1 - before),
        end_line,
        0 if end is None else characters(path, end_line, end) + 1,
    )
