"""The order in which code certainly runs, and the value that a name certainly has."""

from __future__ import annotations

import ast

from gradlint.source.file import SourceModule
from gradlint.source.scopes import FUNCTIONS, Tree

_CONDITIONAL = (ast.IfExp, ast.BoolOp, ast.Lambda, ast.GeneratorExp)


def surely_before(tree: Tree, first: ast.AST, second: ast.AST) -> bool:
    """Return True if `first` has run whenever `second` runs, in one call of their function."""
    one, two = tree.statement(first), tree.statement(second)
    if one is None or two is None or _conditional(tree, first, one):
        return False
    if one is two:
        return _position(first) < _position(second)
    statement: ast.AST | None = two
    while isinstance(statement, ast.stmt | ast.excepthandler | ast.match_case):
        if isinstance(statement, ast.stmt):
            block = tree.block(statement)
            if one in block and block.index(one) <= block.index(statement):
                return True
        if isinstance(statement, (*FUNCTIONS, ast.ClassDef)):
            return False
        statement = tree.parents.get(statement)
    return False


def _conditional(tree: Tree, node: ast.AST, statement: ast.stmt) -> bool:
    child = node
    for around in tree.above(node):
        if around is statement:
            return False
        # The first iterable of a generator expression is evaluated at once, whenever the rest of it runs.
        walked = isinstance(around, ast.comprehension) and around.iter is child
        if isinstance(around, _CONDITIONAL):
            return True
        outer = tree.parents.get(around)
        if walked and isinstance(outer, ast.GeneratorExp) and outer.generators[0] is around:
            return _conditional(tree, outer, statement)
        child = around
    return False


def _position(node: ast.AST) -> tuple[int, int]:
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def loops_around(tree: Tree, node: ast.AST) -> list[ast.For | ast.AsyncFor | ast.While]:
    """Return the loops of the same function whose body a node is in, innermost first."""
    loops: list[ast.For | ast.AsyncFor | ast.While] = []
    child = node
    for around in tree.above(node):
        if isinstance(around, (*FUNCTIONS, ast.ClassDef)):
            break
        if isinstance(around, ast.For | ast.AsyncFor | ast.While):
            if child is not getattr(around, "iter", None) and child not in around.orelse:
                loops.append(around)
        child = around
    return loops


def value_of(module: SourceModule, name: ast.Name) -> ast.expr | None:
    """Return the expression whose value a name certainly has where it is read, or None."""
    tree = module.tree
    bindings = tree.bindings(name)
    scope = tree.scope_of(name)
    if not bindings or any(tree.scope_of(b) is not scope for b in bindings):
        return None
    here = _position(name)
    before = [b for b in bindings if isinstance(b, ast.Name) and surely_before(tree, b, name)]
    before = [b for b in before if tree.statement(b) is not tree.statement(name)]
    if not before:
        return None
    last = max(before, key=_position)
    loops = loops_around(tree, name)
    for other in bindings:
        if other is last:
            continue
        place = _position(other)
        if _position(last) < place < here and tree.statement(other) is not tree.statement(name):
            return None  # perhaps bound anew on the way
        around = [loop for loop in loops if loop in tree.above(other) and loop not in tree.above(last)]
        if around:
            return None  # perhaps bound anew by an earlier round
    value = module.kinds.value_given(last)
    return None if isinstance(tree.parents.get(last), ast.AugAssign) else value
