"""Modules and tensors that modules hold without registering them.

They are in lists, tuples, dicts and objects, or in variables of a closure and globals that methods use.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts import autograd
from gradlint.recorder.facts.module_tree import is_wrapper, places
from gradlint.recorder.hooks.log import HookLog
from gradlint.restore.tensors import is_stale_view
from gradlint.traces.ids import NO_SITE, ParameterKey, ValueId
from gradlint.traces.ops import KIND_ALIAS, KIND_WRITE, Op, Value
from gradlint.traces.sites import class_is_project, is_project
from gradlint.traces.trace import UnregisteredPlace, UnregisteredTensor

_DEPTH = 4
_LONG = 1000
"""Number of elements above which a container is not searched, because it holds data."""
_STANDARD = frozenset(vars(nn.Module()))
"""The attributes that every module has."""
_ATOMS = frozenset((type(None), str, bytes, int, float, bool, torch.dtype, torch.device))


class UnregisteredObject:
    """A module or tensor that a module holds without registering it."""

    __slots__ = ("attribute", "fqn", "holder", "thing", "variable")

    def __init__(self, fqn: str, thing: Any, holder: nn.Module, attribute: str, variable: bool = False) -> None:
        self.variable = variable
        """True if it is a variable of a closure or a global, rather than an attribute."""
        self.fqn = fqn
        self.thing = thing
        self.holder = holder
        """The module of the tree whose attribute it is in."""
        self.attribute = attribute

    @property
    def named_module(self) -> tuple[str, nn.Module, bool]:
        """(name, module, whether the holder is of the user's own class)."""
        return self.fqn, self.thing, class_is_project(type(self.holder))

    def place(self, log: HookLog) -> UnregisteredPlace:
        """Return the place as plain data."""
        container = "" if self.variable else type(vars(self.holder).get(self.attribute)).__name__
        return UnregisteredPlace(self.fqn, log.number(self.holder), self.attribute, self.variable, container)


def plain_attributes(roots: Mapping[str, nn.Module]) -> Iterator[UnregisteredObject]:
    """Yield the outside modules and tensors in plain attributes of the tree's modules."""
    inside = {id(m) for root in roots.values() for m in nn.Module.modules(root)}
    seen: set[int] = set(inside)
    for place in places(roots):
        if is_wrapper(place.module):
            continue  # its attributes are torch's own
        for name, value in list(vars(place.module).items()):
            if type(value) not in _ATOMS and name not in _STANDARD and "hook" not in name:
                fqn = f"{place.fqn}.{name}" if place.fqn else name
                for path, thing in within(value, fqn, seen):
                    yield UnregisteredObject(path, thing, place.module, name)


def _buffers(roots: Mapping[str, nn.Module]) -> Iterator[UnregisteredObject]:
    """Yield the buffers: they are registered, but no parameters for an optimizer."""
    for place in places(roots):
        for name, tensor in place.module.named_buffers(recurse=False):
            yield UnregisteredObject(f"{place.fqn}.{name}" if place.fqn else name, tensor, place.module, name)


def variables(roots: Mapping[str, nn.Module]) -> Iterator[UnregisteredObject]:
    """Yield the outside modules and tensors that the tree's functions use as variables.

    Only methods of the user's own classes and functions in plain attributes are examined.
    """
    inside = {id(m) for root in roots.values() for m in nn.Module.modules(root)}
    inside |= {id(p) for root in roots.values() for p in (*nn.Module.parameters(root), *nn.Module.buffers(root))}
    done: set[int] = set()
    for place in places(roots):
        functions = [v for v in vars(place.module).values() if isinstance(v, FunctionType)]
        for cls in type(place.module).__mro__:
            if class_is_project(cls):
                functions += [f for f in vars(cls).values() if isinstance(f, FunctionType)]
        for function in functions:
            if id(function) in done:
                continue
            done.add(id(function))
            for name, value in _taken(function):
                if isinstance(value, (nn.Module, Tensor, list, tuple, dict)):
                    seen = set(inside)
                    for fqn, thing in within(value, name, seen):
                        inside.add(id(thing))
                        yield UnregisteredObject(fqn, thing, place.module, name, variable=True)


def _taken(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables of a function's closure, and the globals that it names."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a variable that was not given a value
            yield name, cell.cell_contents
    if is_project(function.__code__.co_filename):
        for name in function.__code__.co_names:
            if name in function.__globals__:
                yield name, function.__globals__[name]


def within(value: Any, fqn: str, seen: set[int], depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Yield the modules and tensors in a value, with their names.

    Containers and objects of the user's own classes are searched.

    Args:
        value: where to look.
        fqn: its name.
        seen: identities of objects that were found before; grows.
        depth: number of containers around it.
    """
    if type(value) in _ATOMS or isinstance(value, type) or id(value) in seen or depth > _DEPTH:
        return
    if isinstance(value, (nn.Module, Tensor)):
        seen.add(id(value))
        yield fqn, value
        return
    try:
        parts = _parts(value)
    except Exception:  # containers of the user's may raise anything
        return
    if parts:
        seen.add(id(value))
    for key, part in parts:
        yield from within(part, f"{fqn}.{key}", seen, depth + 1)


def _parts(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, (list, tuple)):
        return list(enumerate(value)) if len(value) <= _LONG else []
    if isinstance(value, Mapping):
        return list(value.items())
    return list(vars(value).items()) if class_is_project(type(value)) and hasattr(value, "__dict__") else []


def find_unregistered_modules(
    roots: Mapping[str, nn.Module], outside: Sequence[nn.Module], log: HookLog
) -> list[UnregisteredObject]:
    """Return where the tree's modules hold modules that ran and are not registered."""
    if not outside:
        return []
    ran = {id(m) for m in outside}
    modules = [f for f in (*plain_attributes(roots), *variables(roots)) if isinstance(f.thing, nn.Module)]
    finds = [f for f in modules if any(id(m) in ran for m in nn.Module.modules(f.thing))]
    for find in finds:
        for module in nn.Module.modules(find.thing):
            log.number(module)
    return finds


def find_unregistered_tensors(
    roots: Mapping[str, nn.Module], registered: Mapping[ParameterKey, Tensor], recorder: Recorder
) -> list[tuple[UnregisteredObject, int]]:
    """Return the unregistered tensors that require grad and exist before the forward.

    Each comes with its value.
    """
    finds = (*plain_attributes(roots), *_buffers(roots), *variables(roots))
    tensors = [f for f in finds if isinstance(f.thing, Tensor) and f.thing.requires_grad]
    return [(f, recorder.tensors.read(f.thing)) for f in tensors if id(f.thing) not in registered]


def judge_unregistered_tensors(
    recorder: Recorder,
    log: HookLog,
    candidates: Sequence[tuple[UnregisteredObject, int]],
    roots: Sequence[Tensor],
    registered: Mapping[ParameterKey, Tensor],
    start: int,
) -> Iterator[UnregisteredTensor]:
    """Yield the unregistered tensors, each with whether the loss's gradient reaches it."""
    if not candidates:
        return
    ops, values = recorder.tape.ops, recorder.tape.values
    reached = autograd.surely_reached([t for t in roots if t.requires_grad])
    asked = {v for op in ops[start:] if op.name == "grad" for v in op.inputs}
    for find, value in candidates:
        tensor = find.thing
        if is_stale_view(tensor):
            continue
        leaves = [t for t in autograd.leaves([tensor]) if id(t) not in registered]
        if leaves:
            producer = _made_at(ops, values, ValueId(value))
            yield UnregisteredTensor(
                place=find.place(log),
                leaf=tensor.grad_fn is None,
                parameter=any(isinstance(t, nn.Parameter) for t in leaves),
                reached=any(id(t) in reached for t in leaves),
                differentiated=value in asked,
                site=ops[producer].site if producer >= 0 else NO_SITE,
            )


def _made_at(ops: Sequence[Op], values: Sequence[Value], value: ValueId) -> int:
    """Return the op that made a tensor, or made it the result of operations.

    Later writes in place do not count.
    """
    while (producer := values[value].producer) >= 0 and ops[producer].kind in (KIND_WRITE, KIND_ALIAS):
        before = next((v for v in ops[producer].inputs if values[v].requires_grad), None)
        if before is None or before == value or values[before].producer < 0:
            break
        if values[before].shape != values[value].shape:
            break  # a part of it was written to
        value = before
    return producer
