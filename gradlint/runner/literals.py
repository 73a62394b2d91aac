"""Values of a running script as Python expressions: plain ones as they are, tensors by their shape."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import torch

_MOST = 64
"""Number of members that a literal may have."""


def literal(value: Any) -> str | None:
    """Return the expression of a plain value.

    None for an object, and for a value too large to write.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or type(value) in (bool, int, float) or (type(value) is str and len(value) < 1000):
        return repr(value)
    if type(value) in (list, tuple, set) and (0 < len(value) <= _MOST or value in ([], ())):
        return _several(value, literal)
    if type(value) is dict and len(value) <= _MOST:
        return _table(value, literal)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, torch.dtype):
        return str(value)
    if isinstance(value, argparse.Namespace) and all(key.isidentifier() for key in vars(value)):
        written = {key: literal(part) for key, part in vars(value).items()}
        if None not in written.values():
            return f"argparse.Namespace({', '.join(f'{key}={part}' for key, part in written.items())})"
    if isinstance(value, PurePath):
        return f"pathlib.Path({str(value)!r})"
    return None


def data(value: Any) -> str | None:
    """Return an expression for data like a batch: tensors of the same shapes and ranges.

    None for anything else.
    """
    if isinstance(value, torch.Tensor):
        return _tensor(value)
    if type(value) in (list, tuple) and 0 < len(value) <= _MOST:
        return _several(value, data)
    if isinstance(value, dict) and value and type(value).__name__ in ("dict", "BatchEncoding", "OrderedDict"):
        return _table(value, data)
    return literal(value)


def _several(values: Any, of: Callable[[Any], str | None]) -> str | None:
    parts = [of(part) for part in values]
    if None in parts:
        return None
    inside = ", ".join(map(str, parts))
    if isinstance(values, tuple):
        return f"({inside},)" if len(parts) == 1 else f"({inside})"
    return f"[{inside}]" if isinstance(values, list) else f"{{{inside}}}"


def _table(values: dict[Any, Any], of: Callable[[Any], str | None]) -> str | None:
    parts = []
    for key, value in values.items():
        key, part = literal(key), of(value)
        if key is None or part is None:
            return None
        parts.append(f"{key}: {part}")
    return "{" + ", ".join(parts) + "}"


def _tensor(value: torch.Tensor) -> str | None:
    if value.requires_grad or type(value) is not torch.Tensor or value.layout != torch.strided:
        return None
    shape = ", ".join(map(str, value.shape)) if value.dim() else "()"
    dtype = "" if value.dtype == torch.float32 else f", dtype={value.dtype}"
    device = "" if value.device.type == "cpu" else f', device="{value.device.type}"'
    if value.dtype == torch.bool:
        size = f"({', '.join(map(str, value.shape))}{',' * (value.dim() == 1)})"
        return f"torch.ones({size}, dtype=torch.bool{device})"
    if value.is_floating_point() or value.is_complex():
        within = value.numel() and not value.is_complex() and 0 <= float(value.min()) and float(value.max()) <= 1
        return f"torch.{'rand' if within else 'randn'}({shape}{dtype}{device})"
    low, high = (int(value.min()), int(value.max())) if value.numel() else (0, 0)
    size = f"({', '.join(map(str, value.shape))}{',' * (value.dim() == 1)})"
    dtype = "" if value.dtype == torch.int64 else dtype
    return f"torch.randint({low}, {high + 1}, {size}{dtype}{device})"
