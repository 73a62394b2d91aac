"""Ops that move values about without changing them: which value, and which of its axes, an axis came from."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

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
from gradlint.traces.ops import KIND_ALIAS, TENSOR, Op
from gradlint.traces.trace import Trace


def computed_value(trace: Trace, value: ValueId, axis: int | None = None) -> tuple[ValueId, int | None]:
    """Follow a value back through ops that only rearrange it, to its computation.

    Args:
        trace: the recording.
        value: the value to start from.
        axis: an axis of it to follow along; None if none matters.

    Returns:
        The value that was computed, and the axis of it that became `axis`; None if that is unknown.
    """
    *_, (_, value, axis) = _steps_back(trace, value, axis)
    return value, axis


def rearranging_ops(trace: Trace, value: ValueId) -> list[Op]:
    """Return the ops that only rearrange a value after its computation, the last one first."""
    return [op for op, _, _ in _steps_back(trace, value, None) if op is not None]


def _steps_back(trace: Trace, value: ValueId, axis: int | None) -> Iterator[tuple[Op | None, ValueId, int | None]]:
    """Yield (op, value before, axis before) for a value and each op that only rearranges it.

    The first op is None: the value itself.
    """
    yield None, value, axis
    while (producer := trace.values[value].producer) >= trace.forward_start:
        op = trace.ops[producer]
        source = _before(trace, op, value, axis)
        if source is None:
            return
        value, axis = source
        yield op, value, axis


def computed_values(trace: Trace, value: ValueId, axis: int | None = None) -> list[tuple[ValueId, int | None]]:
    """Return what `computed_value` does, also through ``cat`` and ``stack``: one for each."""
    sources: list[tuple[ValueId, int | None]] = []
    pending = [(value, axis)]
    while pending:
        value, axis = computed_value(trace, *pending.pop())
        producer = trace.values[value].producer
        parts = _joined(trace, trace.ops[producer], axis) if producer >= trace.forward_start else None
        if parts is None:
            sources.append((value, axis))
        else:
            pending.extend(reversed(parts))
    return list(dict.fromkeys(sources))


def _joined(trace: Trace, op: Op, axis: int | None) -> list[tuple[ValueId, int | None]] | None:
    """Return the values that an op only joins, with the axis in each; None for other ops."""
    if op.name not in JOINS or not op.inputs:
        return None
    shape = trace.values[op.inputs[0]].shape
    stacks = op.name == "stack"
    dims = len(shape) + stacks
    argument = op.argument(1, "dim", 0)
    dim = 0 if op.name == "vstack" else argument % dims if type(argument) is int and dims else None
    if dim is None or axis is None or axis == dim:
        return [(v, None) for v in op.inputs]
    return [(v, axis - (stacks and axis > dim)) for v in op.inputs]


def _before(trace: Trace, op: Op, output: ValueId, axis: int | None) -> tuple[ValueId, int | None] | None:
    """Return the input that an op only rearranges, with the axis; None for other ops."""
    if not op.inputs or op.inputs[0] == output:
        return None
    source = op.inputs[0]
    keeps_values = op.kind == KIND_ALIAS or (op.name in DROPOUTS and _off(op))
    axis_before = _same_axis if keeps_values else _AXIS_BEFORE.get(op.name)
    if axis_before is None:
        return None
    if axis is None:
        return source, None
    return source, axis_before(_Rearrangement(trace, op, trace.values[source].shape, trace.values[output].shape), axis)


class _Rearrangement(NamedTuple):
    """An op that only rearranges a value."""

    trace: Trace
    op: Op
    shape: tuple[int, ...]
    """Shape of the value."""
    made: tuple[int, ...]
    """Shape of the output."""


def _off(op: Op) -> bool:
    """Return True if a dropout lets everything through."""
    return op.argument(2, "training", True) is False or op.argument(1, "p", 0.5) == 0


def _dim(
    op: Op, position: int, names: tuple[str, ...], shape: tuple[int, ...], default: int | None = None
) -> int | None:
    argument = next((d for n in names if (d := op.argument(position, n)) is not None), default)
    return argument % len(shape) if type(argument) is int and shape else None


def _same_axis(step: _Rearrangement, axis: int) -> int | None:
    return axis if len(step.shape) == len(step.made) else None


def _reshaped(step: _Rearrangement, axis: int) -> int | None:
    """Return the axis of a contiguous value with size and stride of an axis of the output."""
    shape, result = step.shape, step.made
    if result[axis] == 1:
        return None
    stride = math.prod(result[axis + 1 :])
    for candidate in range(len(shape)):
        if shape[candidate] == result[axis] and math.prod(shape[candidate + 1 :]) == stride:
            return candidate
    return None


def _swapped(step: _Rearrangement, axis: int) -> int | None:
    first = _dim(step.op, 1, ("dim0", "axis0"), step.shape)
    second = _dim(step.op, 2, ("dim1", "axis1"), step.shape)
    if first is None or second is None:
        return None
    return {first: second, second: first}.get(axis, axis)


def _transposed(step: _Rearrangement, axis: int) -> int:
    dims = list(range(len(step.shape)))
    return (dims[::-1] if step.op.name in ("t", "T") else [*dims[:-2], dims[-1], dims[-2]])[axis]


def _permuted(step: _Rearrangement, axis: int) -> int | None:
    dims = step.op.argument(1, "dims")
    order = dims if isinstance(dims, (tuple, list)) else step.op.args[1:]
    is_constant = len(order) == len(step.shape) and all(type(d) is int for d in order)
    return order[axis] % len(step.shape) if is_constant else None


def _moved(step: _Rearrangement, axis: int) -> int | None:
    source, target = step.op.argument(1, "source"), step.op.argument(2, "destination")
    moved = ([source], [target]) if type(source) is int and type(target) is int else (source, target)
    if not all(isinstance(m, (list, tuple)) for m in moved):
        return None
    dims = len(step.shape)
    taken = {t % dims: s % dims for s, t in zip(*moved, strict=True)}
    left = iter(d for d in range(dims) if d not in taken.values())
    return [taken[d] if d in taken else next(left) for d in range(dims)][axis]


def _expanded(step: _Rearrangement, axis: int) -> int | None:
    back = axis - (len(step.made) - len(step.shape))
    return back if back >= 0 and step.shape[back] == step.made[axis] else None


def _split(step: _Rearrangement, axis: int) -> int:
    return axis


def _sliced(step: _Rearrangement, axis: int) -> int | None:
    if step.op.name == "index_select" and axis == _dim(step.op, 1, ("dim",), step.shape):
        return None  # some twice, some not at all
    return axis if len(step.shape) == len(step.made) and step.shape[axis] == step.made[axis] else None


def _unbound(step: _Rearrangement, axis: int) -> int | None:
    dim = _dim(step.op, 1, ("dim",), step.shape, 0)
    return None if dim is None else axis + (axis >= dim)


def _indexed(step: _Rearrangement, axis: int) -> int | None:
    """Return the axis of ``x`` that became an axis of ``x[...]``."""
    op = step.op
    index: Any = op.args[1] if len(op.args) > 1 else None
    parts = list(index) if isinstance(index, tuple) else [index]
    if any(isinstance(p, (list, str)) for p in parts):
        return None
    if TENSOR in parts:
        if len(parts) > 1:
            return None
        chosen = step.trace.values[op.inputs[1]]  # one mask or index over the leading axes
        mask = chosen.dtype in ("bool", "uint8")
        gone, came = (len(chosen.shape), 1) if mask else (1, len(chosen.shape))
        return axis - came + gone if axis >= came else None
    taken = sum(p is not None and p is not Ellipsis for p in parts)
    rest = len(step.shape) - taken
    if Ellipsis in parts:
        at = parts.index(Ellipsis)
        parts[at : at + 1] = [slice(None)] * rest
    else:
        parts += [slice(None)] * rest
    axes: list[int | None] = []
    position = 0
    for part in parts:
        if part is None:
            axes.append(None)
            continue
        if isinstance(part, slice):
            axes.append(position)
        elif type(part) is not int:
            return None
        position += 1
    return axes[axis] if axis < len(axes) else None


_AXIS_BEFORE: dict[str, Callable[[_Rearrangement, int], int | None]] = {
    **dict.fromkeys(SAME_VALUES, _same_axis),
    **dict.fromkeys(RESHAPES, _reshaped),
    **dict.fromkeys(DIMENSION_SWAPS, _swapped),
    **dict.fromkeys(MATRIX_TRANSPOSES, _transposed),
    **dict.fromkeys(("movedim", "moveaxis"), _moved),
    **dict.fromkeys(("expand", "broadcast_to"), _expanded),
    **dict.fromkeys(SPLITS, _split),
    **dict.fromkeys(SLICE_PICKS, _sliced),
    **dict.fromkeys(("unbind", "select"), _unbound),
    "permute": _permuted,
    "__getitem__": _indexed,
}
"""Op that only rearranges → function that returns the axis of the value that became an axis of the output."""
