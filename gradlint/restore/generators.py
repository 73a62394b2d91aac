"""Random generators that user code holds: of torch, of numpy and of Python."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType
from typing import Any

import torch

from gradlint.traces.sites import is_project

_TORCH = torch.Generator
"""The class itself: a recording on a machine without CUDA puts another one in its place."""


def kinds() -> tuple[type, ...]:
    """Return the types of generators that exist so far."""
    return _kinds(sys.modules.get("numpy.random"))


@functools.lru_cache(maxsize=4)
def _kinds(numpy_random: Any) -> tuple[type, ...]:
    found = (getattr(numpy_random, name, None) for name in ("Generator", "RandomState"))
    return (_TORCH, random.Random, *(kind for kind in found if isinstance(kind, type)))


def is_generator(thing: Any) -> bool:
    """Return True if an object is a random generator with a state."""
    return issubclass(type(thing), kinds()) and not isinstance(thing, random.SystemRandom)


def restorer(generator: Any) -> Callable[[], object]:
    """Return a function that puts a generator back into its current state."""
    if isinstance(generator, _TORCH):
        state = generator.get_state()
        return lambda: generator.set_state(state)
    if isinstance(generator, random.Random):
        python = generator.getstate()
        return lambda: generator.setstate(python)
    bits = getattr(generator, "bit_generator", None)
    if bits is not None:
        numpy = bits.state
        return lambda: setattr(bits, "state", numpy)
    legacy = generator.get_state(legacy=False)
    return lambda: generator.set_state(legacy)


def unpacked(values: Iterable[Any]) -> Iterator[Any]:
    """Yield some objects, and in place of the plain containers among them what these hold."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from value
        elif type(value) is dict:
            yield from value.values()
        else:
            yield value


def generators_of_project() -> Iterator[Any]:
    """Yield the generators that modules of the user's hold as globals."""
    wanted = frozenset(kinds())
    modules: list[Any] = list(sys.modules.values())
    for module in modules:
        if not isinstance(module, ModuleType):
            continue
        namespace = vars(module)
        file = namespace.get("__file__")
        if module.__name__ == "__main__" or (isinstance(file, str) and is_project(file)):
            if not wanted.isdisjoint(map(type, namespace.values())):
                yield from (value for value in namespace.values() if is_generator(value))
