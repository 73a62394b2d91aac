"""Plain lists and dicts of layers: their contents, and how a class uses them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

from gradlint.source.file import SourceModule
from gradlint.source.idioms import in_grad_off, own_attribute

Container = ast.List | ast.ListComp | ast.Dict | ast.DictComp | ast.Tuple

_ITERATES = frozenset("enumerate zip reversed sum list tuple".split())
_MEASURES = frozenset("len range".split())
_REGISTERS = frozenset("add_module register_module register_modules parameters named_parameters _modules".split())


class Use(NamedTuple):
    """One use of a container."""

    calls: bool
    """True if it calls the contents."""
    only_calls: bool
    """True if it does nothing else with them."""


def elements(value: Container) -> list[ast.expr]:
    """Return the elements that a container is written with."""
    if isinstance(value, ast.List | ast.Tuple):
        return list(value.elts)
    if isinstance(value, ast.Dict):
        return list(value.values)
    return [value.elt] if isinstance(value, ast.ListComp) else [value.value]


def contents(module: SourceModule, cls: ast.ClassDef, name: str, value: Container) -> list[ast.expr]:
    """Return everything that is put into a container, or an empty list if that is unknown."""
    nodes = elements(value)
    for use in _uses(module, cls, name):
        parent = module.tree.parents[use]
        around = module.tree.parents[parent]
        if isinstance(parent, ast.Attribute):
            if not isinstance(around, ast.Call):
                return []
            nodes += around.args
        elif isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store):
            if not isinstance(around, ast.Assign):
                return []
            nodes.append(around.value)
    return nodes


def is_only_called(module: SourceModule, cls: ast.ClassDef, name: str) -> bool:
    """Return True if a class calls the layers in a container, and does nothing else with them.

    A class that registers modules by hand, or sets attributes by name, may do anything.
    """
    for node in ast.walk(cls):
        if isinstance(node, ast.Attribute) and node.attr in _REGISTERS:
            return False
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("setattr", "vars"):
            return False
    uses = [use for use in _uses(module, cls, name) if isinstance(use.ctx, ast.Load)]
    roles = [_use_of(module, use) for use in uses]
    is_clean = all(use.only_calls for use in roles) and not any(in_grad_off(module, use) for use in uses)
    return is_clean and any(use.calls for use in roles)


def _uses(module: SourceModule, cls: ast.ClassDef, name: str) -> Iterator[ast.Attribute]:
    """Yield the uses of an attribute of this name, without other classes' own attributes."""
    for use in module.tree.attributes[name]:
        method = module.tree.method_of(use)
        if method is None or method[0] is cls or own_attribute(use, method[1]) != name:
            yield use


def _use_of(module: SourceModule, container: ast.expr) -> Use:
    """Return what a place does with the contents of a container that it reads."""
    parent = module.tree.parents[container]
    if isinstance(parent, ast.Attribute):
        if parent.attr in ("values", "items"):
            return _use_in_loop(module, module.tree.parents[parent], is_keyed=parent.attr == "items")
        return Use(False, parent.attr in ("append", "keys"))
    if isinstance(parent, ast.Subscript):
        if not isinstance(parent.ctx, ast.Load):
            return Use(False, True)
        outer = module.tree.parents[parent]
        is_called = isinstance(outer, ast.Call) and outer.func is parent
        return Use(is_called, is_called)
    return _use_in_loop(module, container)


def _use_in_loop(module: SourceModule, over: ast.AST, is_keyed: bool = False) -> Use:
    """Return what a loop over a container does; `is_keyed` if it gets a key with each layer."""
    parent = module.tree.parents[over]
    while isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name):
        if parent.func.id in _MEASURES:
            return Use(False, True)
        if parent.func.id not in _ITERATES:
            break
        is_keyed = parent.func.id == "enumerate"
        over, parent = parent, module.tree.parents[parent]
    if isinstance(parent, ast.Compare):
        return Use(False, True)
    if not isinstance(parent, ast.For | ast.comprehension) or parent.iter is not over:
        return Use(False, False)
    layers = parent.target.elts[-1] if is_keyed and isinstance(parent.target, ast.Tuple) else parent.target
    names = {n.id for n in ast.walk(layers) if isinstance(n, ast.Name)}
    loop = parent if isinstance(parent, ast.For) else module.tree.parents[parent]
    calls = False
    for node in ast.walk(loop):
        if isinstance(node, ast.Name) and node.id in names:
            outer = module.tree.parents[node]
            if isinstance(outer, ast.Call) and outer.func is node:
                calls = True
            elif isinstance(outer, ast.Attribute | ast.Call | ast.Starred | ast.keyword | ast.Assign):
                return Use(False, False)
    return Use(calls, True)
