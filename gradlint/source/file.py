"""One parsed source file."""

from __future__ import annotations

import ast
from functools import cached_property
from typing import TypeVar

from gradlint.location import Location
from gradlint.source.kinds import Kind, Kinds
from gradlint.source.names import Names
from gradlint.source.scopes import Function, Tree, first_line
from gradlint.source.text import SourceText

S = TypeVar("S", bound=ast.stmt)
_BLOCKS = {
    kind: tuple(name for name in ("body", "orelse", "finalbody", "handlers", "cases") if name in kind._fields)
    for kind in ast.stmt.__subclasses__()
}
"""The fields of each kind of statement that hold other statements."""


class SourceModule:
    """A parsed file: its tree, its imported names, and the kinds of its expressions."""

    def __init__(self, source: SourceText) -> None:
        """Parse a file.

        Raises:
            Unreadable: the text has no syntax tree.
        """
        self.source = source
        self.path = source.path
        self.syntax = source.parsed()
        self._stated: dict[type[ast.stmt], list[ast.stmt]] | None = None

    @cached_property
    def statements(self) -> list[ast.stmt]:
        """All statements, without the expressions in them, which decide whether to look further."""
        nodes: list[ast.stmt] = []
        pending: list[list[ast.stmt]] = [self.syntax.body]
        while pending:
            for node in pending.pop():
                nodes.append(node)
                for name in _BLOCKS.get(node.__class__, ()):
                    parts = getattr(node, name)
                    if name in ("handlers", "cases"):
                        pending += [part.body for part in parts]
                    else:
                        pending.append(parts)
        return nodes

    def stated(self, kind: type[S]) -> list[S]:
        """Return the statements of one class."""
        if self._stated is None:
            self._stated = {}
            for statement in self.statements:
                self._stated.setdefault(statement.__class__, []).append(statement)
        return self._stated.get(kind, [])  # type: ignore[return-value]

    @property
    def assignments(self) -> list[ast.Assign | ast.AnnAssign]:
        """The assignments to names, attributes and elements."""
        return [*self.stated(ast.Assign), *self.stated(ast.AnnAssign)]

    def text_of(self, statement: ast.stmt) -> str:
        """Return all lines of a statement as a whole, which is faster than `text`."""
        starts, end = self.source.starts, statement.end_lineno or statement.lineno
        return self.source.text[starts[statement.lineno - 1] : starts[end] if end < len(starts) else None]

    @cached_property
    def tree(self) -> Tree:
        """Nodes by type, parents, scopes."""
        return Tree(self.syntax)

    @cached_property
    def functions(self) -> dict[tuple[str, int], Function | ast.Lambda]:
        """Functions by name and first line, which are those of their code objects."""
        tree = self.tree
        defs: list[Function] = [*tree.nodes(ast.FunctionDef), *tree.nodes(ast.AsyncFunctionDef)]
        return {
            **{("<lambda>", node.lineno): node for node in tree.nodes(ast.Lambda)},
            **{(node.name, first_line(node)): node for node in defs},
        }

    @cached_property
    def calls(self) -> dict[int, list[ast.Call]]:
        """Line → the calls that begin on it."""
        calls: dict[int, list[ast.Call]] = {}
        for call in self.tree.nodes(ast.Call):
            calls.setdefault(call.lineno, []).append(call)
        return calls

    @cached_property
    def names(self) -> Names:
        """The imported names."""
        return Names(self.tree)

    @cached_property
    def kinds(self) -> Kinds:
        """The kinds of expressions."""
        return Kinds(self.tree, self.names)

    def qualified(self, expression: ast.AST) -> str:
        """Return the full name of an import, as ``torch.no_grad``; empty for anything else."""
        return self.names.qualified(expression)

    def kind(self, expression: ast.AST | None) -> Kind | None:
        """Return what kind of thing an expression gives, or None if the file does not prove it."""
        return self.kinds.of(expression)

    def location(self, node: ast.AST) -> Location:
        """Return the span of a node."""
        return self.source.location(node)

    def head(self, node: ast.AST) -> Location:
        """Return the first line of a function or class from its keyword on."""
        place = self.location(node)
        text = self.source.line(place.line)
        return Location(place.path, place.line, place.column, place.line, len(text.rstrip().removesuffix(":")) + 1)

    def text(self, node: ast.AST) -> str:
        """Return the source of a node as it is written."""
        return self.source.slice(self.location(node))
