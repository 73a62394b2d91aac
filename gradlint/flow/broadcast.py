"""Shapes that broadcast although their elements pair up one to one."""

from __future__ import annotations

import math


def repeated_shape(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape to which broadcasting repeats two operands of the same elements.

    The shapes differ only in axes of one element, which do not line up: (n, 1) and (n,) become (n, n). None if one of
    the operands is left as it is, or if the shapes do not broadcast.
    """
    if _without_ones(first) != _without_ones(second):
        return None
    rank = max(len(first), len(second))
    aligned = [(1,) * (rank - len(shape)) + tuple(shape) for shape in (first, second)]
    if any(1 not in (a, b) and a != b for a, b in zip(*aligned, strict=True)):
        return None
    shape = tuple(max(a, b) if 0 not in (a, b) else 0 for a, b in zip(*aligned, strict=True))
    return shape if math.prod(shape) > max(math.prod(first), math.prod(second)) else None


def _without_ones(shape: tuple[int, ...]) -> list[int]:
    return [size for size in shape if size != 1]
