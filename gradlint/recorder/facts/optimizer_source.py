"""Read from the source of a constructor's call where its parameters were chosen."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import CodeType, FrameType, MethodType
from typing import Any

from torch import nn

from gradlint.location import Location, node_location
from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.source.lookup import call_at, definition_location, enclosing_function, syntax_tree
from gradlint.source.scopes import last_name
from gradlint.traces.ids import SiteId
from gradlint.traces.sites import Sites, is_project


def constructor_arguments(
    sites: Sites, site: SiteId, frame: FrameType | None, cls: type
) -> tuple[tuple[Location, ...], tuple[Location, ...], Location | None]:
    """Return (chosen_at, group_locations, parameters_of) of a call of `cls`.

    They are empty if they are unknown or not in user code.
    """
    blamed = sites.innermost(site)
    if blamed is None or frame is None or not blamed.project:
        return (), (), None
    call = call_at(blamed.path, blamed.location, [base.__name__ for base in cls.__mro__])
    if call is None:
        return (), (), None
    argument = next((k.value for k in call.keywords if k.arg == "params"), call.args[0] if call.args else None)
    if argument is None:
        return (), (), None
    chosen, expressions = _choices(argument, blamed.path, frame, call.lineno)
    written = (e.elts for e in expressions if isinstance(e, ast.List | ast.Tuple) and e.elts)
    groups = tuple(node_location(blamed.path, group) for group in next(written, ()))
    return chosen, groups, node_location(blamed.path, argument) if _is_all_parameters(argument) else None


def _choices(
    argument: ast.expr, path: str, frame: FrameType, before: int
) -> tuple[tuple[Location, ...], list[ast.expr]]:
    """Return the places that choose an argument's parameters, and the expressions of its value."""
    function = _enclosing(path, frame.f_code)
    places: list[Location] = []
    expressions = [argument]
    seen: set[str] = set()
    for expression in expressions:  # which grows by the values of names
        for node in ast.walk(expression):
            if isinstance(node, ast.Call) and (code := _called(node.func, frame)) is not None:
                places.append(definition_location(code))
            elif isinstance(node, ast.Name) and node.id not in seen and function is not None:
                seen.add(node.id)
                assignments = list(_assignments(function, node.id, before))
                fills = list(_fills(function, node.id, before))
                places += (node_location(path, place) for place in (*fills, *assignments))
                expressions += (statement.value for statement in assignments if statement.value is not None)
    return tuple(dict.fromkeys(places)), expressions


def _is_all_parameters(argument: ast.expr) -> bool:
    """Return True for ``X.parameters()``."""
    match argument:
        case ast.Call(func=ast.Attribute(attr="parameters"), args=[], keywords=[]):
            return True
    return False


def _enclosing(path: str, code: CodeType) -> ast.AST | None:
    return syntax_tree(path) if code.co_name == "<module>" else enclosing_function(code)


def _assignments(scope: ast.AST, name: str, before: int) -> Iterator[ast.Assign | ast.AnnAssign | ast.AugAssign]:
    for node in ast.walk(scope):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.lineno < before:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets) and not _makes_module(node.value):
                yield node


def _fills(scope: ast.AST, name: str, before: int) -> Iterator[ast.expr]:
    """Yield the tests around the ``append`` to a list, and what each loop around it goes over."""
    for loop in ast.walk(scope):
        if not isinstance(loop, ast.For) or loop.lineno >= before or not any(_adds(n, name) for n in ast.walk(loop)):
            continue
        for node in ast.walk(loop):
            if isinstance(node, ast.If) and any(_adds(n, name) for n in ast.walk(node)):
                yield node.test
        yield loop.iter


def _adds(node: ast.AST, name: str) -> bool:
    """Return True if a node adds to a list, as ``x.append(p)`` and ``x += [p]`` do."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id=owner), attr="append" | "extend" | "add" | "insert")):
            return owner == name
        case ast.AugAssign(target=ast.Name(id=owner)):
            return owner == name
    return False


def _makes_module(value: ast.expr | None) -> bool:
    """Return True if an assignment looks like the creation of a model: ``Net(...)``."""
    if not isinstance(value, ast.Call):
        return False
    return last_name(value.func)[:1].isupper()


def _called(function: ast.expr, frame: FrameType) -> CodeType | None:
    """Return the code of the user function that an expression names; runs no user code."""
    function_object = _static(function, frame)
    if isinstance(function_object, MethodType):
        function_object = function_object.__func__
    if isinstance(function_object, (staticmethod, classmethod)):
        function_object = function_object.__func__
    code = getattr(function_object, "__code__", None)
    return code if isinstance(code, CodeType) and is_project(code.co_filename) else None


def _static(expression: ast.expr, frame: FrameType) -> Any:
    if isinstance(expression, ast.Name):
        return local_variables(frame).get(expression.id, frame.f_globals.get(expression.id))
    if isinstance(expression, ast.Attribute):
        owner = _static(expression.value, frame)
        if owner is None:
            return None
        children = vars(owner).get("_modules") if isinstance(owner, nn.Module) else None
        child = children.get(expression.attr) if isinstance(children, dict) else None  # scripted modules have no dict
        return inspect.getattr_static(owner, expression.attr, None) if child is None else child
    return None
