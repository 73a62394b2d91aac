"""Describe one argument of a forward as data (`Guess`), make tensors from it, and put arguments into words."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

SEED = 0


@dataclass(frozen=True)
class Guess:
    """One argument of a forward, as a description from which its value is made."""

    shape: tuple[int, ...] = ()
    kind: str = "float"
    """``float`` (normal), ``int`` (uniform below `high`), ``ones`` (bool), ``full`` (int64, all `high`), ``value``."""
    high: int = 2
    value: Any = None
    """The argument itself, for the kind ``value``."""

    def make(self, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Any:
        """Return the tensor or value; random numbers come from `generator` alone, on the CPU."""
        if self.kind == "value":
            return self.value
        if self.kind == "int":
            tensor = torch.randint(0, max(self.high, 1), self.shape, generator=generator, device="cpu")
        elif self.kind == "full":
            tensor = torch.full(self.shape, self.high, dtype=torch.int64, device="cpu")
        elif self.kind == "ones":
            tensor = torch.ones(self.shape, dtype=torch.bool, device="cpu")
        else:
            tensor = normal(self.shape, generator, dtype)
        return tensor.to(device)

    def at(self, dim: int, size: int) -> Guess:
        """Return the same guess with another size in one dimension."""
        shape = list(self.shape)
        shape[dim] = size
        return replace(self, shape=tuple(shape))

    @property
    def spatial(self) -> tuple[int, ...]:
        """The sizes of the dimensions after batch and channels."""
        return self.shape[2:]

    def resized(self, size: int) -> Guess:
        """Return the same guess with all spatial sizes set to `size`."""
        return replace(self, shape=(*self.shape[:2], *(size for _ in self.spatial)))


def normal(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Return normal values, drawn in float32 if the dtype is narrower."""
    wide = dtype if dtype in (torch.float64, torch.complex64, torch.complex128) else torch.float32
    return torch.randn(shape, generator=generator, dtype=wide, device="cpu").to(dtype)


def generator() -> torch.Generator:
    """Return a new seeded generator, so that the global random state is not touched."""
    return torch.Generator(device="cpu").manual_seed(SEED)


def describe(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return arguments in words, such as ``float32[2, 3], mask=bool[2, 8]`` or ``none``."""
    words = [describe_value(a) for a in args] + [f"{k}={describe_value(v)}" for k, v in kwargs.items()]
    return ", ".join(words) or "none"


def describe_value(value: Any) -> str:
    """Return one argument in words."""
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {describe_value(v)}" for k, v in list(value.items())[:4]) + "}"
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        text = ", ".join(describe_value(v) for v in value[:4]) + (", …" if len(value) > 4 else "")
        return f"({text})" if isinstance(value, tuple) else f"[{text}]"
    text = repr(value)
    return text if len(text) <= 40 and "\n" not in text else type(value).__name__


def all_tensors(thing: Any, seen: set[int] | None = None, depth: int = 0) -> list[torch.Tensor]:
    """Return the tensors in an output: in nested containers, dataclasses and plain objects."""
    seen = set() if seen is None else seen
    if isinstance(thing, torch.Tensor):
        if id(thing) in seen:
            return []
        seen.add(id(thing))
        return [thing]
    if (
        thing is None
        or depth > 6
        or id(thing) in seen
        or isinstance(thing, (str, bytes, int, float, bool, torch.nn.Module))
    ):
        return []
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, Mapping):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts = list(thing)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = [getattr(thing, f.name, None) for f in dataclasses.fields(thing)]
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        parts = list(vars(thing).values())
    return [t for part in parts for t in all_tensors(part, seen, depth + 1)]
