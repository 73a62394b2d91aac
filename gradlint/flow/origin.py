"""Ops that move values about without changing them: which value, and which of its axes, an axis came from."""

from __future__ import annotations

import math
from typing import Any

from gradlint.traces.ids import ValueId
from gradlint.traces.op_families import (
    DIMENSION_SWAPS,
    DROPOUTS,
    JOINS,
    MATRIX_TRANSPOSES,
    RESHAPES,
    SAME_VALUES,
    SLICE_PICKS,
    SPLITS,
)
from gradlint.traces.trace import KIND_ALIAS, TENSOR, Op, Trace


def computed_value(trace: Trace, value: ValueId, axis: int | None = None) -> tuple[ValueId, int | None]:
    """Follow a value back through ops that only rearrange it, to its computation.

    Args:
        trace: the recording.
        value: the value to start from.
        axis: an axis of it to follow along; None if none matters.

    Returns:
        The value that was computed, and the axis of it that became `axis`; None if that is unknown.
    """
    while True:
        producer = trace.values[value].producer
        if producer < trace.forward_start:
            return value, axis
        found = _before(trace, trace.ops[producer], value, axis)
        if found is None:
            return value, axis
        value, axis = found


def computed_values(trace: Trace, value: ValueId, axis: int | None = None) -> list[tuple[ValueId, int | None]]:
    """Return what `computed_value` does, also through ``cat`` and ``stack``: one for each."""
    found: list[tuple[ValueId, int | None]] = []
    pending = [(value, axis)]
    while pending:
        value, axis = computed_value(trace, *pending.pop())
        producer = trace.values[value].producer
        parts = _joined(trace, trace.ops[producer], axis) if producer >= trace.forward_start else None
        if parts is None:
            found.append((value, axis))
        else:
            pending.extend(reversed(parts))
    return list(dict.fromkeys(found))


def _joined(trace: Trace, op: Op, axis: int | None) -> list[tuple[ValueId, int | None]] | None:
    """Return the values that an op only joins, with the axis in each; None for other ops."""
    if op.name not in JOINS or not op.inputs:
        return None
    shape = trace.values[op.inputs[0]].shape
    stacks = op.name == "stack"
    dims = len(shape) + stacks
    given = op.argument(1, "dim", 0)
    dim = 0 if op.name == "vstack" else given % dims if type(given) is int and dims else None
    if dim is None or axis is None or axis == dim:
        return [(v, None) for v in op.inputs]
    return [(v, axis - (stacks and axis > dim)) for v in op.inputs]


def _before(trace: Trace, op: Op, output: ValueId, axis: int | None) -> tuple[ValueId, int | None] | None:
    """Return the input that an op only rearranges, with the axis; None for other ops."""
    if not op.inputs or op.inputs[0] == output:
        return None
    source = op.inputs[0]
    shape, made = trace.values[source].shape, trace.values[output].shape
    name = op.name
    if name in SAME_VALUES or op.kind == KIND_ALIAS or (name in DROPOUTS and _off(op)):
        return source, axis if len(shape) == len(made) else None
    if name in RESHAPES:
        return source, None if axis is None else _same_stride(shape, made, axis)
    if name in DIMENSION_SWAPS:
        dims = list(range(len(shape)))
        first, second = _dim(op, 1, ("dim0", "axis0"), shape), _dim(op, 2, ("dim1", "axis1"), shape)
        if first is None or second is None:
            return source, None
        dims[first], dims[second] = dims[second], dims[first]
        return source, None if axis is None else dims[axis]
    if name in MATRIX_TRANSPOSES:
        dims = list(range(len(shape)))
        dims = dims[::-1] if name in ("t", "T") else [*dims[:-2], dims[-1], dims[-2]]
        return source, None if axis is None else dims[axis]
    if name == "permute":
        given = op.argument(1, "dims")
        order = given if isinstance(given, (tuple, list)) else op.args[1:]
        known = len(order) == len(shape) and all(type(d) is int for d in order)
        return source, order[axis] % len(shape) if known and axis is not None else None
    if name in ("movedim", "moveaxis"):
        return source, None if axis is None else _moved(op, len(shape), axis)
    if name in ("expand", "broadcast_to"):
        if axis is None:
            return source, None
        back = axis - (len(made) - len(shape))
        return source, back if back >= 0 and shape[back] == made[axis] else None
    if name in SPLITS:
        return source, axis
    if name in SLICE_PICKS:
        same = len(shape) == len(made) and axis is not None and shape[axis] == made[axis]
        if name == "index_select" and axis == _dim(op, 1, ("dim",), shape):
            same = False  # some twice, some not at all
        return source, axis if same else None
    if name in ("unbind", "select"):
        dim = _dim(op, 1, ("dim",), shape, 0)
        return source, None if axis is None or dim is None else axis + (axis >= dim)
    if name == "__getitem__":
        return source, None if axis is None else _indexed(trace, op, shape, axis)
    return None


def _off(op: Op) -> bool:
    """Return True if a dropout lets everything through."""
    return op.argument(2, "training", True) is False or op.argument(1, "p", 0.5) == 0


def _dim(
    op: Op, position: int, names: tuple[str, ...], shape: tuple[int, ...], default: int | None = None
) -> int | None:
    given = next((d for n in names if (d := op.argument(position, n)) is not None), default)
    return given % len(shape) if type(given) is int and shape else None


def _same_stride(shape: tuple[int, ...], made: tuple[int, ...], axis: int) -> int | None:
    """Return the axis of a contiguous `shape` with size and stride of an axis of `made`."""
    if made[axis] == 1:
        return None
    stride = math.prod(made[axis + 1 :])
    for candidate in range(len(shape)):
        if shape[candidate] == made[axis] and math.prod(shape[candidate + 1 :]) == stride:
            return candidate
    return None


def _moved(op: Op, dims: int, axis: int) -> int | None:
    source, target = op.argument(1, "source"), op.argument(2, "destination")
    moved = ([source], [target]) if type(source) is int and type(target) is int else (source, target)
    if not all(isinstance(m, (list, tuple)) for m in moved):
        return None
    taken = {t % dims: s % dims for s, t in zip(*moved, strict=True)}
    left = iter(d for d in range(dims) if d not in taken.values())
    return [taken[d] if d in taken else next(left) for d in range(dims)][axis]


def _indexed(trace: Trace, op: Op, shape: tuple[int, ...], axis: int) -> int | None:
    """Return the axis of ``x`` that became an axis of ``x[...]``."""
    index: Any = op.args[1] if len(op.args) > 1 else None
    parts = list(index) if isinstance(index, tuple) else [index]
    tensors = iter(op.inputs[1:])
    if any(isinstance(p, (list, str)) for p in parts):
        return None
    if TENSOR in parts:
        if len(parts) > 1:
            return None
        chosen = trace.values[next(tensors)]  # one mask or index over the leading axes
        mask = "bool" in str(chosen.dtype) or "uint8" in str(chosen.dtype)
        gone, came = (len(chosen.shape), 1) if mask else (1, len(chosen.shape))
        return axis - came + gone if axis >= came else None
    taken = sum(p is not None and p is not Ellipsis for p in parts)
    rest = len(shape) - taken
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * rest
    else:
        parts += [slice(None)] * rest
    kept: list[int | None] = []
    position = 0
    for part in parts:
        if part is None:
            kept.append(None)
            continue
        if isinstance(part, slice):
            kept.append(position)
        elif type(part) is not int:
            return None
        position += 1
    return kept[axis] if axis < len(kept) else None
