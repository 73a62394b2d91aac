"""What modules hold as plain attributes: modules and tensors that are in lists, tuples, dicts and objects instead of
being registered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.record.tree import places
from gradlint.sites import class_is_project

_DEPTH = 4
_STANDARD = frozenset(vars(nn.Module()))
"""The attributes that every module has."""
_ATOMS = frozenset((type(None), str, bytes, int, float, bool, torch.dtype, torch.device))


class Find:
    """A module or tensor found in an attribute that registers nothing."""

    __slots__ = ("attribute", "fqn", "holder", "thing")

    def __init__(self, fqn: str, thing: Any, holder: nn.Module, attribute: str) -> None:
        self.fqn = fqn
        self.thing = thing
        self.holder = holder
        """The module of the tree whose attribute it is in."""
        self.attribute = attribute


def plain_attributes(roots: Mapping[str, nn.Module]) -> Iterator[Find]:
    """The modules outside the tree and the tensors that plain attributes of the tree's modules hold."""
    inside = {id(m) for root in roots.values() for m in root.modules()}
    seen: set[int] = set(inside)
    for place in places(roots):
        for name, value in list(vars(place.module).items()):
            if type(value) not in _ATOMS and name not in _STANDARD and "hook" not in name:
                fqn = f"{place.fqn}.{name}" if place.fqn else name
                for path, thing in _within(value, fqn, seen, 0):
                    yield Find(path, thing, place.module, name)


def _within(value: Any, fqn: str, seen: set[int], depth: int) -> Iterator[tuple[str, Any]]:
    if type(value) in _ATOMS or isinstance(value, type) or id(value) in seen or depth > _DEPTH:
        return
    if isinstance(value, (nn.Module, Tensor)):
        seen.add(id(value))
        yield fqn, value
        return
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, (list, tuple)):
        if len(value) > 1000:
            return
        parts = list(enumerate(value))
    elif isinstance(value, Mapping):
        parts = list(value.items())
    elif class_is_project(type(value)) and hasattr(value, "__dict__"):
        parts = list(vars(value).items())
    if parts:
        seen.add(id(value))
    for key, part in parts:
        yield from _within(part, f"{fqn}.{key}", seen, depth + 1)
