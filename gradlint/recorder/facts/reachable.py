"""Networks, optimizers, schedulers, generators and tensors that a function can reach and may change."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.utils.data
from torch import Tensor, nn

from gradlint.restore.generators import is_generator
from gradlint.traces.sites import class_is_project

_DEPTH = 5
_ITEMS = 1000
_DATA = (torch.utils.data.DataLoader, torch.utils.data.Sampler)
_ATOMS = frozenset((type(None), str, bytes, int, float, bool, complex, torch.dtype, torch.device, type))


class ReachableState:
    """The objects found, each once."""

    def __init__(self) -> None:
        self.modules: list[nn.Module] = []
        self.stateful: list[Any] = []
        """Optimizers, schedulers and gradient scalers."""
        self.tensors: list[Tensor] = []
        self.generators: list[Any] = []
        """Random generators."""


def reachable_from(*callables: Any) -> ReachableState:
    """Return the objects that callables lead to.

    They are found through closures, defaults, bound objects and globals.
    """
    owned = ReachableState()
    seen: set[int] = set()
    pending: list[tuple[Any, int]] = [(function, 0) for function in callables]
    while pending:
        thing, depth = pending.pop()
        if type(thing) in _ATOMS or id(thing) in seen or depth > _DEPTH:
            continue
        seen.add(id(thing))
        if isinstance(thing, Tensor):
            owned.tensors.append(thing)
            continue
        if is_generator(thing):
            owned.generators.append(thing)
        elif isinstance(thing, nn.Module):
            owned.modules.append(thing)
        elif _stateful(thing):
            owned.stateful.append(thing)
        pending.extend((part, depth + 1) for part in _parts(thing))
    return owned


def _stateful(thing: Any) -> bool:
    if isinstance(thing, type) or not hasattr(type(thing), "state_dict"):
        return False
    return hasattr(type(thing), "load_state_dict") and hasattr(thing, "__dict__")


def _parts(thing: Any) -> Iterable[Any]:
    if isinstance(thing, Mapping):
        return list(thing.values())[:_ITEMS]
    if isinstance(thing, (list, tuple, set, frozenset)):
        return list(thing)[:_ITEMS]
    if isinstance(thing, functools.partial):
        return [thing.func, *thing.args, *thing.keywords.values()]
    if inspect.ismethod(thing):
        return [thing.__self__, thing.__func__]
    if inspect.isfunction(thing):
        return list(_of_function(thing))
    if isinstance(thing, (nn.Module, *_DATA)) or _stateful(thing) or class_is_project(type(thing)):
        return list(getattr(thing, "__dict__", {}).values())
    return ()


def _of_function(function: Any) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    for name in function.__code__.co_names:
        if name in function.__globals__:
            value = function.__globals__[name]
            if not inspect.ismodule(value) and not isinstance(value, type):
                yield value
