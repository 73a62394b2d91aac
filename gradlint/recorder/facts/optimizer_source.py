"""What the source of a constructor's call says about its arguments: where the parameters were chosen."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import CodeType, FrameType, MethodType
from typing import Any

from torch import nn

from gradlint.location import Location, node_location
from gradlint.source.lookup import call_at, definition_location, enclosing_function, syntax_tree
from gradlint.traces.ids import SiteId
from gradlint.traces.sites import Sites, is_project


def constructor_arguments(
    sites: Sites, site: SiteId, frame: FrameType | None, cls: type
) -> tuple[tuple[Location, ...], tuple[Location, ...], Location | None]:
    """(chosen_at, group_locations, parameters_of) of the call that makes a `cls`; empty where the source does not
    tell."""
    blamed = sites.innermost(site)
    if blamed is None or frame is None:
        return (), (), None
    call = call_at(blamed.path, blamed.location, [base.__name__ for base in cls.__mro__])
    if call is None:
        return (), (), None
    argument = next((k.value for k in call.keywords if k.arg == "params"), call.args[0] if call.args else None)
    if argument is None:
        return (), (), None
    chosen: list[Location] = []
    groups: tuple[Location, ...] = ()
    function = _enclosing(blamed.path, frame.f_code)
    pending: list[ast.expr] = [argument]
    seen: set[str] = set()
    while pending:
        expression = pending.pop(0)
        if isinstance(expression, (ast.List, ast.Tuple)) and not groups and expression.elts:
            groups = tuple(node_location(blamed.path, e) for e in expression.elts)
        for node in ast.walk(expression):
            if isinstance(node, ast.Call):
                code = _called(node.func, frame)
                if code is not None:
                    chosen.append(definition_location(code))
            elif isinstance(node, ast.Name) and node.id not in seen and function is not None:
                seen.add(node.id)
                for statement in _assignments(function, node.id, call.lineno):
                    chosen.append(node_location(blamed.path, statement))
                    value = statement.value
                    if value is not None:
                        pending.append(value)
    literal = None
    if (
        isinstance(argument, ast.Call)
        and isinstance(argument.func, ast.Attribute)
        and argument.func.attr == "parameters"
        and not argument.args
        and not argument.keywords
    ):
        literal = node_location(blamed.path, argument)
    return tuple(dict.fromkeys(chosen)), groups, literal


def _enclosing(path: str, code: CodeType) -> ast.AST | None:
    return syntax_tree(path) if code.co_name == "<module>" else enclosing_function(code)


def _assignments(scope: ast.AST, name: str, before: int) -> Iterator[ast.Assign | ast.AnnAssign | ast.AugAssign]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.lineno < before:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and not _makes_module(node.value):
                yield node


def _makes_module(value: ast.expr | None) -> bool:
    """Whether an assignment looks like the making of a model (``Net(...)``) rather than a choice of parameters."""
    if not isinstance(value, ast.Call):
        return False
    name = value.func.attr if isinstance(value.func, ast.Attribute) else getattr(value.func, "id", "")
    return name[:1].isupper()


def _called(function: ast.expr, frame: FrameType) -> CodeType | None:
    """The code of the user's function that an expression names; found without running any of their code."""
    found = _static(function, frame)
    if isinstance(found, MethodType):
        found = found.__func__
    if isinstance(found, (staticmethod, classmethod)):
        found = found.__func__
    code = getattr(found, "__code__", None)
    return code if isinstance(code, CodeType) and is_project(code.co_filename) else None


def _static(expression: ast.expr, frame: FrameType) -> Any:
    if isinstance(expression, ast.Name):
        return frame.f_locals.get(expression.id, frame.f_globals.get(expression.id))
    if isinstance(expression, ast.Attribute):
        owner = _static(expression.value, frame)
        if owner is None:
            return None
        children = vars(owner).get("_modules") if isinstance(owner, nn.Module) else None
        child = children.get(expression.attr) if isinstance(children, dict) else None  # scripted modules have no dict
        return inspect.getattr_static(owner, expression.attr, None) if child is None else child
    return None
