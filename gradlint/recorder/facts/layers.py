"""Facts about single modules and tensors: classes, attributes, norm layers, dropout, hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gradlint.recorder.facts.module_tree import NamedModule
from gradlint.traces.ids import ModuleIndex
from gradlint.traces.sites import class_is_project
from gradlint.traces.trace import FlaggedTensor, Module, ModuleClass

_STATISTICS = ("running_mean", "running_var")
_DROPOUTS = frozenset(("_DropoutNd", "DropPath", "StochasticDepth"))


class Classes:
    """Describes each class of a recording once."""

    def __init__(self) -> None:
        self._known: dict[type, ModuleClass] = {}

    def describe(self, cls: type) -> ModuleClass:
        """Return the description of a class."""
        description = self._known.get(cls)
        if description is None:
            description = self._known[cls] = ModuleClass(
                name=cls.__name__,
                home=cls.__module__,
                number=len(self._known),
                bases=tuple(base.__name__ for base in cls.__mro__),
                project=class_is_project(cls),
                has_from_pretrained=isinstance(inspect.getattr_static(cls, "from_pretrained", None), classmethod),
            )
        return description


def describe_module(
    row: NamedModule, numbers: Mapping[int, ModuleIndex], classes: Classes, *, training: bool, calls: int
) -> Module:
    """Return a module as plain data, as it is now.

    Args:
        row: the module and its place.
        numbers: identity of a module → its number.
        classes: describes its class.
        training: its mode at the start of the forward.
        calls: how often it ran.
    """
    module = row.module
    place: dict[str, Any] = dict(
        fqn=row.fqn,
        spellings=row.spellings,
        number=row.number,
        parent=row.parent,
        type=classes.describe(type(module)),
        training=training,
        in_tree=row.in_tree,
        registered_at=row.registered_at,
        parameters=row.parameters,
        calls=calls,
    )
    if not row.was_seen:
        return Module(**place)
    children = ((name, numbers.get(id(child))) for name, child in module._modules.items() if child is not None)
    momentum = getattr(module, "momentum", None)
    return Module(
        **place,
        training_after=bool(module.training),
        children=tuple((name, number) for name, number in children if number is not None),
        flags=flags_of(module),
        is_active_dropout=_is_active_dropout(module),
        has_recurrent_dropout=_has_recurrent_dropout(module),
        running_stats=tuple(name for name in _STATISTICS if getattr(module, name, None) is not None),
        momentum=float(momentum) if isinstance(momentum, (int, float)) else None,
        has_hook=bool(getattr(module, "_backward_hooks", None) or getattr(module, "_backward_pre_hooks", None)),
    )


def _has_recurrent_dropout(module: nn.Module) -> bool:
    return isinstance(module, nn.RNNBase) and module.dropout > 0 and module.num_layers > 1


def _is_active_dropout(module: nn.Module) -> bool:
    """Return True if a layer drops inputs in train mode: its probability is not 0."""
    if _DROPOUTS.isdisjoint(cls.__name__ for cls in type(module).__mro__):
        return False  # asking a module for an attribute that it lacks is slow
    return bool(getattr(module, "p", getattr(module, "drop_prob", 0)))


def flags_of(thing: Any) -> dict[str, bool]:
    """Return the boolean attributes of an object that its class does not define.

    ``requires_grad_`` is included in any case.
    """
    cls = type(thing)
    return {
        name: value
        for name, value in getattr(thing, "__dict__", {}).items()
        if type(value) is bool and (name == "requires_grad_" or not hasattr(cls, name))
    }


def flagged_tensors(modules: Iterable[NamedModule], inputs: Any) -> Iterator[FlaggedTensor]:
    """Yield the buffers, plain attributes and inputs on which boolean attributes were set.

    Args:
        modules: the modules and their places.
        inputs: the inputs of the setup.
    """
    for row in modules:
        prefix = f"{row.fqn}." if row.fqn else ""
        own = vars(row.module) if row.was_seen else {}
        for name, value in (*own.items(), *own.get("_buffers", {}).items()):
            if isinstance(value, Tensor) and (flags := flags_of(value)):
                yield FlaggedTensor(prefix + name, flags, bool(value.requires_grad))
    for name, value in _leaves("inputs", inputs):
        if isinstance(value, Tensor) and (flags := flags_of(value)):
            yield FlaggedTensor(name, flags, bool(value.requires_grad))


def _leaves(name: str, thing: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(thing, dict):
        for key, part in thing.items():
            yield from _leaves(str(key), part)
    elif isinstance(thing, (list, tuple)):
        for number, part in enumerate(thing):
            yield from _leaves(f"{name}[{number}]", part)
    else:
        yield name, thing
