"""Sums and lists that a loop adds tensors to, and whether the program drops them again."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.source.file import SourceModule
from gradlint.source.order import surely_before
from gradlint.source.scopes import dotted_text, own_nodes

Loop = ast.For | ast.AsyncFor | ast.While

_WITHOUT_HISTORY = frozenset("item detach tolist numpy data backward".split())
"""Attributes and methods that give a value without its history."""
_TO_NUMBERS = frozenset("float int round str bool len".split())
_SIZES = frozenset("size numel dim nelement".split())
_EMPTIES = frozenset("clear pop popleft popitem reset".split())


@dataclass(frozen=True)
class Addition:
    """A statement in a loop that adds a tensor to a variable, attribute or element."""

    statement: ast.stmt
    holder: ast.expr
    tensor: ast.Name
    loop: Loop


def additions(loop: Loop, names: set[str]) -> Iterator[Addition]:
    """Yield where a loop adds one of these names, as it is or scaled, to a holder.

    Examples are ``total += loss`` and ``losses.append(loss)``.
    """
    for node in own_nodes(ast.Module(body=loop.body, type_ignores=[])):
        match node:
            case ast.AugAssign(target=holder, value=value):
                pass
            case ast.Assign(targets=[holder, *_], value=ast.BinOp(left=left, right=right)):
                if dotted_text(holder) not in (dotted_text(left), dotted_text(right)):
                    continue
                value = right if dotted_text(holder) == dotted_text(left) else left
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=holder, attr="append"), args=[value])):
                pass
            case _:
                continue
        tensor = _operand(value, names)
        if tensor is not None and isinstance(holder, ast.Name | ast.Attribute | ast.Subscript):
            assert isinstance(node, ast.stmt)
            yield Addition(node, holder, tensor, loop)


def _operand(value: ast.expr, names: set[str]) -> ast.Name | None:
    """Return the first of these names that an expression is, or computes with."""
    if isinstance(value, ast.BinOp):
        return _operand(value.left, names) or _operand(value.right, names)
    return value if isinstance(value, ast.Name) and value.id in names else None


def has_history(module: SourceModule, addition: Addition) -> bool:
    """Return True if every value of the tensor in the loop is computed with its history."""
    name = addition.tensor
    inside = [b for b in module.tree.bindings(name) if addition.loop in module.tree.above(b)]
    for binding in inside:
        value = module.kinds.value_given(binding)
        if value is None:
            statement = module.tree.statement(binding)
            value = statement.value if isinstance(statement, ast.Assign | ast.AugAssign) else None
        if value is None or _may_lack_history(value):
            return False
    for use in module.tree.attributes.get("detach_", ()):
        if isinstance(use.value, ast.Name) and use.value.id == name.id:
            return False
    return any(surely_before(module.tree, b, addition.statement) for b in inside)


def _may_lack_history(value: ast.expr) -> bool:
    """Return True if an expression may give a number or a detached tensor."""
    for node in ast.walk(value):
        if isinstance(node, ast.Attribute) and node.attr in _WITHOUT_HISTORY:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _TO_NUMBERS:
            return True
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _SIZES:
        return True
    return not any(isinstance(n, ast.Call) for n in ast.walk(value))


def is_released(module: SourceModule, addition: Addition, function: ast.AST) -> bool:
    """Return True if a function drops what a loop adds, or runs backward through the sum."""
    holders = _holders(addition.holder)
    return (
        _is_reset(module, addition, function, holders)
        or _is_emptied(module, addition, function, holders)
        or _reaches_backward(addition, function, holders)
        or _is_bounded(module, holders)
    )


def _holders(holder: ast.expr) -> set[str]:
    """Return the texts of a holder and of the object that it is part of, without ``self``."""
    root: ast.expr = holder
    while isinstance(root, ast.Subscript | ast.Attribute):
        root = root.value
    return {dotted_text(holder), dotted_text(root)} - {"self"}


def _targets(node: ast.Assign | ast.AnnAssign | ast.AugAssign) -> set[str]:
    return {dotted_text(t) for t in (node.targets if isinstance(node, ast.Assign) else [node.target])}


def _is_reset(module: SourceModule, addition: Addition, function: ast.AST, holders: set[str]) -> bool:
    """Return True if the loop assigns the holder anew."""
    return any(
        isinstance(node, ast.Assign | ast.AnnAssign)
        and node is not addition.statement
        and addition.loop in module.tree.above(node)
        and _targets(node) & holders
        for node in ast.walk(function)
    )


def _is_emptied(module: SourceModule, addition: Addition, function: ast.AST, holders: set[str]) -> bool:
    """Return True if the function empties or deletes the holder, or detaches it in the loop."""
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and dotted_text(node.value) in holders:
            if node.attr in _EMPTIES:
                return True
            if node.attr in ("detach", "detach_") and addition.loop in module.tree.above(node):
                return True
        if isinstance(node, ast.Delete) and any(_mentions(target, holders) for target in node.targets):
            return True
    return False


def _reaches_backward(addition: Addition, function: ast.AST, holders: set[str]) -> bool:
    """Return True if the holder, or a value computed from it, goes into a backward call."""
    onward = set(holders)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node is not addition.statement:
            if node.value is not None and _mentions(node.value, onward):
                onward |= _targets(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("backward"):
            if _mentions(node, onward):
                return True
    return False


def _is_bounded(module: SourceModule, holders: set[str]) -> bool:
    """Return True if the file makes the holder a deque of a maximal length."""
    return any(
        isinstance(node.value, ast.Call)
        and any(k.arg == "maxlen" for k in node.value.keywords)
        and any(dotted_text(target) in holders for target in node.targets)
        for node in module.tree.nodes(ast.Assign)
    )


def _mentions(node: ast.AST, texts: set[str]) -> bool:
    return any(dotted_text(part) in texts for part in ast.walk(node))
