"""Numbers that nothing reads but conditions."""

from __future__ import annotations

import ast

from gradlint.source.file import SourceModule
from gradlint.source.lookup import name_parts

_OF_NUMBERS = frozenset("abs bool float int max min round math.isfinite math.isinf math.isnan".split())
"""Functions of numbers that keep nothing of their arguments."""


def is_only_tested(module: SourceModule, number: ast.expr) -> bool:
    """Return True if conditions alone read a number: ``if t.item() > 0``."""
    tree = module.tree
    pending, read = [number], set[ast.expr]()
    while pending:
        node = pending.pop()
        if node in read:
            continue
        read.add(node)
        match parent := tree.parents.get(node):
            case (
                ast.If(test=tested)
                | ast.While(test=tested)
                | ast.IfExp(test=tested)
                | ast.Assert(test=tested)
                | ast.Match(subject=tested)
            ) if tested is node:
                pass
            case ast.comprehension(ifs=tests) if node in tests:
                pass
            case ast.Compare() | ast.BoolOp() | ast.UnaryOp() | ast.BinOp():
                pending.append(parent)
            case ast.Call(func=function) if ".".join(name_parts(function)) in _OF_NUMBERS:
                pending.append(parent)
            case (
                ast.Assign(targets=[ast.Name() as name])
                | ast.AnnAssign(target=ast.Name() as name)
                | ast.NamedExpr(target=name)
            ):
                uses: list[ast.expr] = [u for u in tree.loads.get(name.id, ()) if name in tree.bindings(u)]
                pending += [*uses, parent] if isinstance(parent, ast.NamedExpr) else uses
                if not uses and not isinstance(parent, ast.NamedExpr):
                    return False
            case _:
                return False
    return True
