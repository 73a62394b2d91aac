"""Syntax of code that ran: the file at a path, the function of a code object, the call at a location."""

from __future__ import annotations

import ast
import functools
import linecache
import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from types import CodeType

from gradlint.location import Code, Location, node_location, source_path, statement_location
from gradlint.source.file import SourceModule
from gradlint.source.files import source_text
from gradlint.source.scopes import last_name, own_nodes, self_name
from gradlint.source.text import Unreadable
from gradlint.system import reading


def source_module(path: str) -> SourceModule | None:
    """Return the parsed file at a path, or None if it cannot be read or parsed.

    All callers share one `SourceModule` per file until the file changes.
    """
    full = source_path(path)
    try:
        status = os.stat(full)
        return _parsed(full, status.st_mtime_ns, status.st_size)
    except OSError:
        return _parsed(full, 0, 0)  # the cell of a notebook has no file, only lines in linecache


@functools.lru_cache(maxsize=64)
def _parsed(path: str, changed: int, size: int) -> SourceModule | None:
    try:
        data = reading.read(path)
    except OSError:
        data = "".join(linecache.getlines(path)).encode()
    try:
        return SourceModule(source_text(path, data))
    except Unreadable:
        return None


def syntax_tree(path: str) -> ast.Module:
    """Return the syntax tree of a source file; an empty one if it cannot be read or parsed."""
    module = source_module(path)
    return module.syntax if module is not None else ast.Module(body=[], type_ignores=[])


@dataclass(frozen=True)
class Function:
    """A function, or the top level of a file, in its file."""

    module: SourceModule
    node: ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

    def nodes(self) -> Iterator[ast.AST]:
        """Yield the nodes of its own body in source order, without nested functions and classes."""
        return own_nodes(self.node)

    @property
    def owner(self) -> str:
        """Name of the class that it is a method of; empty for any other function."""
        cls = self.module.tree.owner(self.node)
        return cls.name if cls is not None else ""

    @property
    def self_name(self) -> str:
        """Name of a method's first argument; empty outside of classes."""
        return self_name(self.node) if self.owner else ""


def function_of(code: CodeType | Code) -> Function | None:
    """Return the function that code was compiled from, or None if its source is unknown."""
    module = source_module(code.co_filename)
    if module is None:
        return None
    if code.co_name == "<module>":
        return Function(module, module.syntax)
    node = module.functions.get((code.co_name, code.co_firstlineno))
    return Function(module, node) if node is not None else None


def class_of(code: CodeType | Code) -> ast.ClassDef | None:
    """Return the class that code is a method of; None for other code."""
    function = function_of(code)
    return function.module.tree.owner(function.node) if function is not None else None


def enclosing_function(code: CodeType | Code) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    """Return the ``def`` that code was compiled from, or None if there is none."""
    function = function_of(code)
    node = function.node if function is not None else None
    return node if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else None


def definition_location(code: CodeType | Code) -> Location:
    """Return the ``def`` line of the function that a code object was compiled from."""
    node = enclosing_function(code)
    return statement_location(source_path(code.co_filename), node.lineno if node else code.co_firstlineno)


def decorator_location(code: CodeType | Code, names: frozenset[str]) -> Location:
    """Return the location of a function's decorator by one of `names`, for example ``no_grad``.

    Falls back on the first line of the function, which is the line of its topmost decorator.
    """
    path = source_path(code.co_filename)
    function = enclosing_function(code)
    for decorator in function.decorator_list if function is not None else ():
        if any(last_name(part) in names for part in ast.walk(decorator)):
            return node_location(path, decorator, before=1)
    return statement_location(path, code.co_firstlineno)


def call_at(path: str, location: Location, names: Container[str] = ()) -> ast.Call | None:
    """Return the call expression at a location, or None if there is none.

    Before Python 3.11 only the line is known. The widest call on it counts, if possible a call of one of `names`.
    """
    module = source_module(path)
    calls = module.calls.get(location.line, []) if module is not None else []
    for call in calls:
        if node_location(path, call) == location:
            return call
    calls = [c for c in calls if (name_parts(c.func) or [""])[-1] in names] or calls
    return max(calls, key=lambda c: (c.end_lineno or 0, c.end_col_offset or 0, -c.col_offset), default=None)


def call_and_file_at(path: str, location: Location, names: Container[str] = ()) -> tuple[SourceModule, ast.Call] | None:
    """Return the file and the call expression that `call_at` finds, or None without one."""
    module, call = source_module(path), call_at(path, location, names)
    return (module, call) if module is not None and call is not None else None


def name_parts(expression: ast.expr) -> list[str]:
    """Return ``a``, ``b``, ``0``, ``c`` for ``a.b[0].c``, as in an fqn; else an empty list."""
    parts: list[str] = []
    node = expression
    while True:
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            parts.append(str(node.slice.value))
            node = node.value
        elif isinstance(node, ast.Name):
            return [node.id, *reversed(parts)]
        else:
            return []
