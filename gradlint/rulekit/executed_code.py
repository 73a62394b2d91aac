"""The user's functions as syntax trees, for what only the source tells. Imports no torch."""

from __future__ import annotations

import ast
import functools
import linecache
import os
from collections.abc import Collection, Container, Iterable, Iterator
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING

from gradlint.location import Location, node_location
from gradlint.traces.sites import is_project, syntax_tree

if TYPE_CHECKING:
    from gradlint.traces.trace import Trace

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_SCOPES = (*_FUNCTIONS, ast.ClassDef)


@dataclass(frozen=True)
class Function:
    """A function (or the top level of a file) that ran while recording."""

    path: str
    node: ast.AST
    owner: str
    """Name of the class that it is a method of; empty for none."""

    def nodes(self) -> Iterator[ast.AST]:
        """The nodes of its own body, in the order of the source; not those of functions and classes inside it."""
        pending: list[ast.AST] = list(reversed(list(_children(self.node))))
        while pending:
            node = pending.pop()
            yield node
            if not isinstance(node, _SCOPES):
                pending.extend(reversed(list(ast.iter_child_nodes(node))))

    @property
    def self_name(self) -> str:
        """The name of a method's first argument; empty outside of classes."""
        if not self.owner or not isinstance(self.node, ast.FunctionDef | ast.AsyncFunctionDef):
            return ""
        arguments = [*self.node.args.posonlyargs, *self.node.args.args]
        return arguments[0].arg if arguments else ""

    @property
    def module_tree(self) -> ast.Module:
        """The syntax tree of its whole file."""
        return syntax_tree(self.path)

    def location(self, node: ast.expr | ast.stmt) -> Location:
        """The span of one of its nodes."""
        return node_location(self.path, node)

    def text(self, node: ast.AST) -> str:
        """The source of one of its nodes."""
        return ast.get_source_segment("".join(linecache.getlines(self.path)), node) or ""


def _children(node: ast.AST) -> Iterable[ast.AST]:
    if isinstance(node, ast.Lambda):
        return [node.body]
    return node.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Module) else []


def executed_functions(trace: Trace) -> list[Function]:
    """The functions of the user's own code that ran while recording, in the order of their first run."""
    found: dict[tuple[str, int], Function] = {}
    for code in trace.executed:
        function = function_of(code)
        if function is not None:
            found.setdefault((function.path, id(function.node)), function)
    return list(found.values())


def function_of(code: CodeType) -> Function | None:
    """The function that a code object belongs to; None where its source is not at hand or it is no function."""
    if not is_project(code.co_filename):
        return None
    path = os.path.abspath(code.co_filename)
    if code.co_name == "<module>":
        return Function(path, syntax_tree(path), "")
    return _index(path).get((code.co_name, code.co_firstlineno))


@functools.lru_cache(maxsize=64)
def _index(path: str) -> dict[tuple[str, int], Function]:
    """Functions by name and first line."""
    found: dict[tuple[str, int], Function] = {}
    pending: list[tuple[ast.AST, str]] = [(syntax_tree(path), "")]
    while pending:
        node, owner = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([d.lineno for d in node.decorator_list], default=node.lineno)
            found[node.name, first] = Function(path, node, owner)
            owner = ""
        elif isinstance(node, ast.Lambda):
            found["<lambda>", node.lineno] = Function(path, node, "")
        elif isinstance(node, ast.ClassDef):
            owner = node.name
        pending += [(child, owner) for child in ast.iter_child_nodes(node)]
    return found


def dotted(expression: ast.expr) -> list[str]:
    """The parts of ``a.b[0].c`` as they would stand in an fqn (``a``, ``b``, ``0``, ``c``); empty for anything else."""
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


def assigned_at(trace: Trace, names: Collection[str], attribute: str) -> Location | None:
    """Return where an attribute of a class's instances is assigned: in its own methods, else through any name.

    `names` are the class and its bases. None where no function that ran assigns it.
    """
    elsewhere: Location | None = None
    for function in executed_functions(trace):
        for node in function.nodes():
            if not isinstance(node, ast.Assign | ast.AnnAssign):
                continue
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            flat = [t for target in targets for t in (target.elts if isinstance(target, ast.Tuple) else [target])]
            for target in flat:
                if not isinstance(target, ast.Attribute) or target.attr != attribute:
                    continue
                if isinstance(target.value, ast.Name) and target.value.id == function.self_name:
                    if function.owner in names:
                        return function.location(node)
                elif elsewhere is None:
                    elsewhere = function.location(node)
    return elsewhere


def variable_assigned_at(trace: Trace, name: str) -> Location | None:
    """Where a function that ran, or the top level of a file, gives a variable its value first."""
    for function in executed_functions(trace):
        for node in function.nodes():
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if any(isinstance(n, ast.Name) and n.id == name for target in targets for n in ast.walk(target)):
                    return function.location(node)
    return None


@dataclass(frozen=True)
class Write:
    """A statement that names an attribute of something: an assignment, a ``setattr``, or one that does nothing."""

    function: Function
    node: ast.expr | ast.stmt
    base: ast.expr
    """What the attribute is of."""
    value: ast.expr | None
    """What it is set to; None for a statement that sets nothing."""
    simple: bool
    """Whether it is a plain ``base.attribute = value``, which can be rewritten as a whole."""

    @property
    def location(self) -> Location:
        return self.function.location(self.node)

    def fits(self, fqn: str) -> int:
        """How well what it is about agrees with a parameter's or module's name: -1 not at all, else the parts that
        the source spells out. The variable of a loop is about what the loop runs over."""
        parts = dotted(self.base)
        if len(parts) == 1:
            over = _looped_over(self.function, parts[0], self.node)
            parts = dotted(over) if over is not None else parts
        spelled = parts[1:]
        if not spelled:
            return 0
        names = fqn.split(".")
        for start in range(len(names) - len(spelled) + 1):
            if names[start : start + len(spelled)] == spelled:
                return len(spelled)
        return -1


def _looped_over(function: Function, name: str, inside: ast.AST) -> ast.expr | None:
    """The ``X`` of ``for name in X.parameters()`` around a node (also ``_, name in X.named_parameters()``)."""
    for loop in function.nodes():
        if isinstance(loop, ast.For) and any(n is inside for n in ast.walk(loop)):
            named = {n.id for n in ast.walk(loop.target) if isinstance(n, ast.Name)}
            call = loop.iter
            if name in named and isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                return call.func.value
    return None


def attribute_writes(trace: Trace, attribute: str) -> list[Write]:
    """Where functions that ran assign an attribute of any object."""
    found = []
    for function in executed_functions(trace):
        for node in function.nodes():
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    if isinstance(target, ast.Attribute) and target.attr == attribute:
                        found.append(Write(function, node, target.value, node.value, len(node.targets) == 1))
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "setattr":
                if len(node.args) == 3 and isinstance(node.args[1], ast.Constant) and node.args[1].value == attribute:
                    found.append(Write(function, node, node.args[0], node.args[2], False))
    return found


def idle_statements(trace: Trace) -> list[tuple[str, Write]]:
    """Statements that only name ``requires_grad``: (``==``, …) for a comparison, (``uncalled``, …) for a method."""
    found = []
    for function in executed_functions(trace):
        for node in function.nodes():
            if not isinstance(node, ast.Expr):
                continue
            value = node.value
            if isinstance(value, ast.Compare) and isinstance(value.ops[0], ast.Eq):
                left = value.left
                if isinstance(left, ast.Attribute) and left.attr == "requires_grad":
                    found.append(("==", Write(function, node, left.value, value.comparators[0], True)))
            elif isinstance(value, ast.Attribute) and value.attr == "requires_grad_":
                found.append(("uncalled", Write(function, node, value.value, None, True)))
    return found


def uncalled(trace: Trace, method: str) -> list[Location]:
    """The statements of executed code that name a method and do not call it: ``optimizer.zero_grad``."""
    return [
        function.location(node)
        for function in executed_functions(trace)
        for node in function.nodes()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Attribute) and node.value.attr == method
    ]


def best_write(writes: Iterable[Write], fqn: str) -> Write | None:
    """The write that is most likely the one about a name; None where none can be."""
    return max((w for w in writes if w.fits(fqn) >= 0), key=lambda w: w.fits(fqn), default=None)


def call_at(path: str, location: Location, names: Container[str] = ()) -> ast.Call | None:
    """The call expression that stands exactly at a location.

    Else (before Python 3.11 only lines are known) the widest one that starts on its line, of something called by one
    of `names` if there is any.
    """
    calls = [n for n in ast.walk(syntax_tree(path)) if isinstance(n, ast.Call) and n.lineno == location.line]
    for call in calls:
        if node_location(path, call) == location:
            return call
    calls = [c for c in calls if (dotted(c.func) or [""])[-1] in names] or calls
    return max(calls, key=lambda c: (c.end_lineno or 0, c.end_col_offset or 0, -c.col_offset), default=None)


def given_at(trace: Trace, site: int) -> Location | None:
    """Where the list that a call is given was made, if the call names it: the ``layers = [...]`` before
    ``nn.Sequential(*layers)``."""
    frame = trace.frame(site)
    function = function_of(frame.code) if frame is not None else None
    if frame is None or function is None:
        return None
    call = call_at(frame.path, frame.location)
    if call is None:
        return None
    lists = [a.value for a in call.args if isinstance(a, ast.Starred)] or (call.args if len(call.args) == 1 else [])
    names = {a.id for a in lists if isinstance(a, ast.Name)}
    found = None
    for node in function.nodes():
        if isinstance(node, ast.Assign) and node.lineno < call.lineno:
            if any(isinstance(t, ast.Name) and t.id in names for t in node.targets):
                found = function.location(node)
    return found
