"""Uses of an iterator that exhaust it."""

from __future__ import annotations

import ast

from gradlint.source.file import SourceModule

_BUILTINS = frozenset("list tuple set frozenset sum sorted max min dict".split())
_UTILITIES = frozenset(
    f"torch.nn.utils.{name}"
    for name in (
        "clip_grad_norm_",
        "clip_grad_value_",
        "clip_grad.clip_grad_norm_",
        "clip_grad.clip_grad_value_",
        "parameters_to_vector",
        "get_total_norm",
    )
)


def consumed_whole(module: SourceModule, use: ast.expr) -> bool:
    """Return True if the place that an iterator is passed to certainly exhausts it."""
    tree = module.tree
    parent = tree.parents.get(use)
    if isinstance(parent, ast.keyword):
        parent = tree.parents.get(parent)
    if isinstance(parent, ast.Call):
        return use is not parent.func and _consumes(module, parent, use)
    if isinstance(parent, ast.Starred):
        return True
    if isinstance(parent, ast.Dict):
        keys = [k for k, v in zip(parent.keys, parent.values, strict=True) if v is use]
        return any(isinstance(k, ast.Constant) and k.value == "params" for k in keys)
    if isinstance(parent, ast.For) and parent.iter is use:
        return not any(
            isinstance(n, ast.Break | ast.Return | ast.Raise | ast.Yield) for s in parent.body for n in ast.walk(s)
        )
    if isinstance(parent, ast.comprehension) and parent.iter is use:
        outer = tree.parents.get(parent)
        if isinstance(outer, ast.ListComp | ast.SetComp | ast.DictComp):
            return outer.generators[0] is parent
        call = tree.parents.get(outer) if outer is not None else None
        if isinstance(outer, ast.GeneratorExp) and outer.generators[0] is parent and isinstance(call, ast.Call):
            return _consumes(module, call, outer)
    return False


def _consumes(module: SourceModule, call: ast.Call, argument: ast.expr) -> bool:
    function = call.func
    if isinstance(function, ast.Name) and not module.tree.bindings(function):
        return function.id in _BUILTINS
    full = module.qualified(function)
    first = call.args[:1] == [argument] or any(
        k.value is argument and k.arg in ("params", "parameters") for k in call.keywords
    )
    if full in _UTILITIES:
        return first
    if full:
        kind = module.kind(call)
        return first and kind is not None and kind.what == "optimizer"
    if isinstance(function, ast.Attribute) and function.attr in ("extend", "update") and first:
        return True
    return isinstance(function, ast.Attribute) and function.attr == "join" and isinstance(function.value, ast.Constant)
