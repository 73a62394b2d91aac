"""Whether the input of a loss holds probabilities, by its values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_readable

_TOLERANCES = {torch.float64: 1e-5, torch.float32: 1e-4}
"""Data type → how far a sum of probabilities may be from 1; half precision is left out."""


def has_probabilities(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Return True if each row of a loss's input, along axis 1, is positive and sums to 1.

    False if there are not at least two classes and two rows that differ. Most inputs need a look at one row.
    """
    given = args[0] if args else (kwargs or {}).get("input")
    if not isinstance(given, Tensor) or not given.requires_grad or given.dim() < 2 or given.dtype not in _TOLERANCES:
        return False
    if given.shape[1] < 2 or given.numel() == given.shape[1] or not given.numel() or not is_readable(given):
        return False
    if given.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    tolerance = _TOLERANCES[given.dtype]
    with without_torch_function(), torch.no_grad():
        rows = given.detach()
        return _sum_to_one(rows[:1], tolerance) and _sum_to_one(rows, tolerance) and _differ(rows.movedim(1, -1))


def _sum_to_one(rows: Tensor, tolerance: float) -> bool:
    return bool((rows > 0).all() and ((rows.sum(1) - 1).abs() < tolerance).all())


def _differ(rows: Tensor) -> bool:
    first = rows.reshape(-1, rows.shape[-1])[:1]
    return bool(((rows - first).abs() > 1e-6).any())
