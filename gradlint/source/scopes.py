"""One walk over a syntax tree: parents, nodes by type, and the bindings of names in each scope."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

N = TypeVar("N", bound=ast.AST)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_PLAIN_FIELDS = frozenset("ctx op ops id attr asname level module conversion kind type_comment simple".split())
"""Fields without nodes to look up: operators, contexts, texts."""
_FIELDS: dict[type[ast.AST], tuple[str, ...]] = {}
_LOAD = ast.Load
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Scope:
    """A function, class, comprehension or module, and the names bound in it."""

    node: ast.AST
    above: Scope | None
    bindings: dict[str, list[ast.AST]] = field(default_factory=dict)
    """Name → its bindings: the Name that is stored to, an alias of an import, a definition, an argument."""
    global_names: set[str] = field(default_factory=set)
    """Names declared global."""
    outer_names: set[str] = field(default_factory=set)
    """Names declared nonlocal."""

    def bind(self, name: str, node: ast.AST) -> None:
        """Record that a node binds a name here."""
        self.bindings.setdefault(name, []).append(node)

    def home(self, name: str, module: Scope) -> Scope:
        """Return the scope to which a name belongs that this one may declare global or nonlocal."""
        scope = self
        while name in scope.outer_names and scope.above is not None:
            scope = scope.above
        return module if name in scope.global_names else scope


class Tree:
    """The nodes of a module as rules look them up."""

    def __init__(self, module: ast.Module) -> None:
        self.module = module
        self.parents: dict[ast.AST, ast.AST] = {}
        self.scopes: dict[ast.AST, Scope] = {}
        self.loads: dict[str, list[ast.Name]] = {}
        """Name → where it is read, in any scope."""
        self.attributes: dict[str, list[ast.Attribute]] = {}
        """Attribute name → where it is read, written or deleted, of anything."""
        self._by_type: dict[type[ast.AST], list[ast.AST]] = {}
        self._walk()

    def nodes(self, kind: type[N]) -> list[N]:
        """Return all nodes of one class, in no particular order.

        Names are in `loads` and in the scopes.
        """
        return self._by_type.get(kind, [])  # type: ignore[return-value]

    def _walk(self) -> None:
        # The hottest loop of a source check: leaves are dealt with where they are met, and never put on the stack.
        root = Scope(self.module, None)
        self.scopes[self.module] = root
        parents, by_type, loads, attributes = self.parents, self._by_type, self.loads, self.attributes
        constants: list[ast.AST] = by_type.setdefault(ast.Constant, [])
        pending: list[tuple[ast.AST, Scope]] = [(self.module, root)]
        pop, push = pending.pop, pending.append
        while pending:
            node, scope = pop()
            kind = node.__class__
            nodes = by_type.get(kind)
            if nodes is None:
                nodes = by_type[kind] = []
            nodes.append(node)
            inner = scope
            outer_fields: tuple[str, ...] = ()
            if kind is ast.Attribute:
                attributes.setdefault(node.attr, []).append(node)  # type: ignore[attr-defined,arg-type]
            elif kind in _BINDERS:
                inner = self._bind(node, scope)
                outer_fields = _OUTER.get(kind, ())
            fields = _FIELDS.get(kind)
            if fields is None:
                fields = _FIELDS[kind] = tuple(name for name in node._fields if name not in _PLAIN_FIELDS)
            for name in fields:
                value = getattr(node, name, None)
                if value is None:
                    continue
                where = scope if name in outer_fields else inner
                for child in value if value.__class__ is list else (value,):
                    cls = child.__class__
                    if cls is ast.Name:
                        parents[child] = node
                        if child.ctx.__class__ is _LOAD:
                            loads.setdefault(child.id, []).append(child)
                        else:
                            where.bind(child.id, child)
                    elif cls is ast.Constant:
                        parents[child] = node
                        constants.append(child)
                    elif isinstance(child, ast.AST):
                        parents[child] = node
                        push((child, where))
        for scope in [scope for scope in self.scopes.values() if scope.global_names or scope.outer_names]:
            # the declaration may come later in this walk than what it is about
            for name in (scope.global_names | scope.outer_names) & scope.bindings.keys():
                nodes = scope.bindings.pop(name)
                scope.home(name, root).bindings.setdefault(name, []).extend(nodes)

    def _bind(self, node: ast.AST, scope: Scope) -> Scope:
        """Record what a node binds, and return the scope of its parts."""
        if isinstance(node, ast.Import | ast.ImportFrom):
            for alias in node.names:
                scope.bind(alias.asname or alias.name.split(".")[0], alias)
            return scope
        if isinstance(node, ast.Global):
            scope.global_names.update(node.names)
            return scope
        if isinstance(node, ast.Nonlocal):
            scope.outer_names.update(node.names)
            return scope
        if isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar):
            if node.name:
                scope.bind(node.name, node)
            return scope
        if isinstance(node, ast.MatchMapping):
            if node.rest:
                scope.bind(node.rest, node)
            return scope
        if isinstance(node, ast.NamedExpr):
            function = scope
            while isinstance(function.node, _COMPREHENSIONS) and function.above is not None:
                function = function.above
            function.bind(node.target.id, node.target)
            return scope
        if isinstance(node, ast.arg):
            scope.bind(node.arg, node)
            return scope
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            scope.bind(node.name, node)
        inner = self.scopes[node] = Scope(node, scope)
        return inner

    def scope_of(self, node: ast.AST) -> Scope:
        """Return the scope that an expression is evaluated in."""
        child, parent = node, self.parents.get(node)
        while parent is not None:
            if parent in self.scopes and not self._is_outside(parent, child):
                return self.scopes[parent]
            child, parent = parent, self.parents.get(parent)
        return self.scopes[self.module]

    @staticmethod
    def _is_outside(scope: ast.AST, child: ast.AST) -> bool:
        for name in _OUTER.get(scope.__class__, ()):
            value = getattr(scope, name, None)
            if child is value or (isinstance(value, list) and child in value):
                return True
        return False

    def bindings(self, name: ast.Name) -> list[ast.AST]:
        """Return what binds a name that is read: in the nearest scope that does; empty for builtins."""
        scope: Scope | None = self.scope_of(name)
        first = True
        while scope is not None:
            if name.id in scope.global_names:
                scope = self.scopes[self.module]
            if name.id in scope.bindings and (first or not isinstance(scope.node, ast.ClassDef)):
                return scope.bindings[name.id]
            first = first and isinstance(scope.node, _COMPREHENSIONS)
            scope = scope.above
        return []

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        """Yield the nodes around a node, innermost first."""
        parent = self.parents.get(node)
        while parent is not None:
            yield parent
            parent = self.parents.get(parent)

    def statement(self, node: ast.AST) -> ast.stmt | None:
        """Return the innermost statement that a node is or belongs to."""
        if isinstance(node, ast.stmt):
            return node
        return next((a for a in self.above(node) if isinstance(a, ast.stmt)), None)

    def function(self, node: ast.AST) -> Function | None:
        """Return the ``def`` around a node; None at top level and in a class body."""
        for around in self.above(node):
            if isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
                return around
            if isinstance(around, ast.ClassDef):
                return None
        return None

    def owner(self, node: ast.AST) -> ast.ClassDef | None:
        """Return the class whose body directly contains a definition or statement."""
        parent = self.parents.get(node)
        while isinstance(parent, ast.If | ast.Try | ast.With):
            parent = self.parents.get(parent)
        return parent if isinstance(parent, ast.ClassDef) else None

    def method_of(self, node: ast.AST) -> tuple[ast.ClassDef, Function] | None:
        """Return the class and the method around a node, across nested functions."""
        for around in self.above(node):
            if isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
                owner = self.owner(around)
                if owner is not None:
                    return owner, around
        return None

    def block(self, statement: ast.stmt) -> list[ast.stmt]:
        """Return the list of statements that contains a statement."""
        parent = self.parents.get(statement)
        for name in ("body", "orelse", "finalbody"):
            value = getattr(parent, name, None)
            if isinstance(value, list) and statement in value:
                return value
        return [statement]


_BINDERS = frozenset(
    (
        ast.Import,
        ast.ImportFrom,
        ast.Global,
        ast.Nonlocal,
        ast.ExceptHandler,
        ast.MatchAs,
        ast.MatchStar,
        ast.MatchMapping,
        ast.NamedExpr,
        ast.arg,
        ast.ClassDef,
        *FUNCTIONS,
        *_COMPREHENSIONS,
    )
)
_OUTER: dict[type[ast.AST], tuple[str, ...]] = {
    ast.FunctionDef: ("decorator_list", "returns"),
    ast.AsyncFunctionDef: ("decorator_list", "returns"),
    ast.ClassDef: ("decorator_list", "bases", "keywords"),
}


def self_name(function: ast.AST) -> str:
    """Return the name of a method's first argument; empty if it has none."""
    if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
        return ""
    arguments = [*function.args.posonlyargs, *function.args.args]
    return arguments[0].arg if arguments else ""


def defaults(function: Function | ast.Lambda) -> dict[str, ast.expr]:
    """Return the default values of a function: name of an argument → expression."""
    arguments = function.args
    pairs = [*zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs += zip(reversed(positional), reversed(arguments.defaults), strict=False)
    return {argument.arg: default for argument, default in pairs if default is not None}


def dotted_text(node: ast.AST) -> str:
    """Return the text of an expression without its layout."""
    return ast.unparse(node)


def last_name(node: ast.AST) -> str:
    """Return ``c`` for ``a.b.c``, ``c`` and ``c[0]``; an empty text for anything else."""
    while isinstance(node, ast.Subscript):
        node = node.value
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def first_line(function: Function) -> int:
    """Return the first line of a function: its own, or its topmost decorator's."""
    return min([d.lineno for d in function.decorator_list], default=function.lineno)


def own_nodes(function: ast.Module | ast.ClassDef | Function | ast.Lambda) -> Iterator[ast.AST]:
    """Yield the nodes of a body in source order, without those of nested functions and classes."""
    pending: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(reversed(function.body))
    while pending:
        node = pending.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            pending += reversed(list(ast.iter_child_nodes(node)))
