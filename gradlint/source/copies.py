"""Statements that copy the values of networks: which variables they name."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint.location import Location
from gradlint.source.file import SourceModule
from gradlint.source.order import value_of
from gradlint.source.scopes import dotted_text

_CONTENTS = frozenset("parameters named_parameters state_dict".split())
"""Methods that give the parameters of a module."""
_LOOPS = (ast.For, ast.AsyncFor)


def networks_copied(module: SourceModule, location: Location) -> tuple[str, str] | None:
    """Return the two variables of which the code at a location copies one network to the other.

    None if it names one network only, or chooses them in a loop or by a computed index: such a choice may meet.
    """
    statement = _statement_at(module, location)
    if statement is None:
        return None
    networks = list(_loaded(module, statement)) or _paired(module, statement)
    named = {dotted_text(network): network for network in networks}
    if len(named) != 2 or not all(_is_constant(module, network) for network in networks):
        return None
    first, second = named
    return first, second


def copies_own_value(module: SourceModule, location: Location) -> bool:
    """Return True if code reads the variable that it writes: ``p.data = p.data.half()``."""
    statement = _statement_at(module, location)
    for target, value in _writes(statement) if statement is not None else ():
        own = dotted_text(_without_data(target))
        parts = (n for n in ast.walk(value) if isinstance(n, ast.Name | ast.Attribute | ast.Subscript))
        if any(dotted_text(part) == own for part in parts):
            return True
    return False


def _statement_at(module: SourceModule, location: Location) -> ast.stmt | None:
    """Return the innermost statement around a location."""
    around = (s for s in module.statements if s.lineno <= location.line <= (s.end_lineno or s.lineno))
    return max(around, key=lambda s: (s.lineno, s.col_offset), default=None)


def _loaded(module: SourceModule, statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield the networks of ``target.load_state_dict(source.state_dict())``."""
    for call in ast.walk(statement):
        match call:
            case ast.Call(func=ast.Attribute(value=target, attr="load_state_dict")):
                given = {k.arg: k.value for k in call.keywords}
                state = next(iter(call.args), given.get("state_dict"))
                if isinstance(state, ast.Name):
                    state = value_of(module, state)
                match state:
                    case ast.Call(func=ast.Attribute(value=source, attr="state_dict")):
                        yield target
                        yield source


def _paired(module: SourceModule, statement: ast.stmt) -> list[ast.expr]:
    """Return the networks whose parameters a statement, or the loop around it, goes through."""
    loops = [around.iter for around in module.tree.above(statement) if isinstance(around, _LOOPS)]
    parts = [statement.iter] if isinstance(statement, _LOOPS) else [statement]
    networks: list[ast.expr] = []
    for part in (*parts, *loops[:1]):
        for call in ast.walk(part):
            match call:
                case ast.Call(func=ast.Attribute(value=network, attr=name)) if name in _CONTENTS:
                    networks.append(network)
    return networks


def _is_constant(module: SourceModule, network: ast.expr) -> bool:
    """Return True if an expression names the same network wherever it is evaluated."""
    while isinstance(network, ast.Attribute | ast.Subscript):
        if isinstance(network, ast.Subscript) and not isinstance(network.slice, ast.Constant):
            return False
        network = network.value
    if not isinstance(network, ast.Name):
        return False
    for binding in module.tree.bindings(network):
        around = [above for above in module.tree.above(binding) if not isinstance(above, ast.Tuple | ast.List)]
        if isinstance(around[0], ast.comprehension | ast.For | ast.AsyncFor):
            return False
        if isinstance(around[0], ast.Assign) and not _is_plain(around[0].value):
            return False
    return True


def _is_plain(value: ast.expr) -> bool:
    """Return True if no computed index chooses a value."""
    return not any(isinstance(n, ast.Subscript) and not isinstance(n.slice, ast.Constant) for n in ast.walk(value))


def _writes(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Yield (tensor, value) of each write of a value to a tensor."""
    for node in ast.walk(statement):
        match node:
            case ast.Assign(targets=[ast.Attribute(attr="data") as target], value=value):
                yield target, value
            case ast.Call(func=ast.Attribute(value=target, attr="copy_"), args=[value, *_]):
                yield target, value


def _without_data(tensor: ast.expr) -> ast.expr:
    """Return ``p`` for ``p.data`` and ``p.detach()``."""
    while True:
        match tensor:
            case ast.Attribute(value=owner, attr="data") | ast.Call(func=ast.Attribute(value=owner, attr="detach")):
                tensor = owner
            case _:
                return tensor
