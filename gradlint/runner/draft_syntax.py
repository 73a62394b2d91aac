"""What statements bind and read: the syntax behind a build() that is made of a script."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Sequence


def path_to(body: list[ast.stmt], line: int) -> list[tuple[list[ast.stmt], ast.stmt]]:
    """Return the blocks around a line, each with its statement that contains the line."""
    for statement in body:
        if statement.lineno <= line <= (statement.end_lineno or statement.lineno):
            path = [(body, statement)]
            blocks = [getattr(statement, name, None) for name in ("body", "orelse", "finalbody")]
            blocks += [handler.body for handler in getattr(statement, "handlers", ())]
            for block in blocks if not isinstance(statement, (ast.FunctionDef, ast.ClassDef)) else ():
                deeper = path_to(block, line) if isinstance(block, list) else []
                if deeper:
                    return path + deeper
            return path
    return []


def loaded(statements: Iterable[ast.AST]) -> set[str]:
    """Return the names that statements read, but for those of comprehensions and parameters."""
    nodes = [node for statement in statements for node in ast.walk(statement)]
    inner = {a.arg for n in nodes if isinstance(n, ast.arguments) for a in (*n.posonlyargs, *n.args, *n.kwonlyargs)}
    inner |= {
        part.id
        for n in nodes
        if isinstance(n, ast.comprehension)
        for part in ast.walk(n.target)
        if isinstance(part, ast.Name)
    }
    return {n.id for n in nodes if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)} - inner | {
        n.target.id for n in nodes if isinstance(n, ast.AugAssign) and isinstance(n.target, ast.Name)
    }


def bound_by(statements: Iterable[ast.stmt], *, plain: bool = False) -> Iterator[str]:
    """Yield the names that statements bind.

    Those in blocks count too; with `plain`, only those of the statements themselves.
    """
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
            yield statement.name
        elif isinstance(statement, (ast.Import, ast.ImportFrom)):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in statement.names)
        else:
            nodes: Iterable[ast.AST] = ast.walk(statement)
            if plain:
                targets = getattr(statement, "targets", None) or [getattr(statement, "target", statement)]
                nodes = [node for target in targets for node in ast.walk(target)]
            for node in nodes:
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    yield node.id


def read_first_by(statements: Sequence[ast.stmt]) -> set[str]:
    """Return the names that a block reads before it binds them, by the order of its statements."""
    read: set[str] = set()
    bound: set[str] = set()
    for statement in statements:
        own = set() if isinstance(statement, (ast.Assign, ast.AugAssign)) else set(bound_by([statement]))
        read |= loaded([statement]) - bound - own
        bound |= set(bound_by([statement]))
    return read


def merged_imports(lines: Iterable[str]) -> list[str]:
    """Return import lines in their order, with one for each module that names are imported from."""
    names: dict[str, set[str]] = {}
    for line in lines:
        module, is_from, name = line.partition(" import ") if line.startswith("from ") else (line, "", "")
        names.setdefault(module, set()).update(name.split(", ") if is_from else ())
    made = [f"{module} import {', '.join(sorted(of))}" if of else module for module, of in names.items()]
    return sorted(made, key=lambda line: (not line.startswith("from __future__"), line.startswith("from"), line))


def root_of(node: ast.AST) -> str:
    """Return the name that attributes, members and calls begin with; empty without one."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call, ast.Starred)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else ""


def last_name(node: ast.expr) -> str:
    """Return the name of a function in a call, without what it is an attribute of."""
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def call_of(statement: ast.stmt, name: str) -> ast.Call | None:
    """Return the first call of a function in a statement."""
    calls = [n for n in ast.walk(statement) if isinstance(n, ast.Call)]
    wanted = [c for c in calls if last_name(c.func) == name]
    return wanted[0] if wanted else None


def argument_of(call: ast.Call | None, position: int, name: str, is_method: bool) -> ast.expr | None:
    """Return what a call gives for a parameter; None where it does not show it."""
    if call is None:
        return None
    if is_method:
        if position == 0:
            return call.func.value if isinstance(call.func, ast.Attribute) else None
        position -= 1
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    if any(isinstance(a, ast.Starred) for a in call.args[: position + 1]):
        return None
    return call.args[position] if position < len(call.args) else None
