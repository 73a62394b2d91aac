"""Which parameters each recorded value depends on, and which of them its gradient would return to.

Sets of parameters are bit masks: bit *i* is the parameter at index *i*.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlint.traces.ids import OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import (
    DIVIDE,
    NEW_LEAF,
    OVERWRITES,
    PAIRWISE,
    SHAPED_AFTER,
    VALUE_FREE,
    ZERO_GRADIENT,
    ZERO_GRADIENT_IF_REAL,
    ZERO_GRADIENT_OF_SECOND,
)
from gradlint.traces.ops import IN_FUNCTION, KIND_ALIAS, KIND_OPAQUE, KIND_WRITE, Op, Value


@dataclass
class Masks:
    """Per value: the parameters it depends on, and those that gradient returns to from it."""

    data: dict[ValueId, int]
    live: dict[ValueId, int]
    cuts: list[tuple[OpIndex, ValueId, int]]
    """(number of the op, its output, parameters whose gradient ends there)."""


def propagate(
    ops: Sequence[Op],
    values: Sequence[Value],
    owners: Mapping[ValueId, ParameterIndex],
    start: int = 0,
    dropped: Container[tuple[Any, int]] = (),
) -> Masks:
    """Push both sets through the ops in order.

    A cut is an *output* that depends on a parameter and carries no gradient for it while an input does. Inside a
    custom Function, where grad mode is off by design, the gradient counts as kept: its outputs decide.

    Args:
        dropped: as `Trace.dropped`.
    """
    masks = Masks({}, {}, [])
    data, live = masks.data, masks.live
    for value, index in owners.items():
        data[value] = 1 << index
        if values[value].requires_grad:
            live[value] = 1 << index
    for number, op in enumerate(ops):
        inputs = op.inputs
        depends = returns = 0
        for value in inputs:
            depends |= data.get(value, 0)
            returns |= live.get(value, 0)
        if not depends:
            continue
        name = op.name
        if _forgets(op):
            continue
        if name in SHAPED_AFTER and len(inputs) > 1:
            depends, returns = data.get(inputs[0], 0), live.get(inputs[0], 0)
            if not depends:
                continue
        if len(op.outputs) > 1 and (name in PAIRWISE or name.startswith("_foreach_")):
            lost_at = _push_pairwise(masks, op, values, owners)
            if number >= start:
                masks.cuts += [(OpIndex(number), output, lost) for output, lost in lost_at]
            continue
        if op.region == IN_FUNCTION:
            for output in op.outputs:
                data[output] = data.get(output, 0) | depends
                live[output] = live.get(output, 0) | returns
            continue
        if op.kind == KIND_WRITE and name in OVERWRITES and len(inputs) > 1:
            depends = union(data, inputs[1:])
            passing = returns = union(live, inputs[1:])
        elif name in NEW_LEAF or has_zero_gradient(op, values):
            passing = 0
        elif op.kind == KIND_ALIAS and len(inputs) == 2 and _is_overwritten(ops, values, *inputs):
            depends, passing = data.get(inputs[1], 0), returns
        elif name in ZERO_GRADIENT_OF_SECOND:
            passing = live.get(inputs[0], 0) if op.tensor(0, "input") is not None else 0
        elif op.kind == KIND_OPAQUE and dropped:
            passing = _kept(op, live, dropped)
        else:
            passing = returns
        for output in op.outputs:
            if output in inputs:
                continue  # given back as it was
            own = owners.get(output)
            own_bit = 0 if own is None else 1 << own
            data[output] = depends | own_bit
            carries = passing if values[output].requires_grad else 0
            if own_bit and values[output].requires_grad:
                carries = own_bit  # a leaf stays a leaf, whatever was written to it
            live[output] = carries
            lost = returns & depends & ~carries & ~own_bit
            if lost and number >= start:
                masks.cuts.append((OpIndex(number), output, lost))
    return masks


def _is_overwritten(ops: Sequence[Op], values: Sequence[Value], old: ValueId, written: ValueId) -> bool:
    """Return True if a write by one tensor left nothing of another one's values."""
    number = values[written].producer
    if not 0 <= number < len(ops) or written not in ops[number].outputs or values[old].shape != values[written].shape:
        return False
    write = ops[number]
    return write.kind == KIND_WRITE and ((write.name in OVERWRITES and len(write.inputs) > 1) or _forgets(write))


def mask_of(parameters: Iterable[ParameterIndex]) -> int:
    """Return the mask of some parameters."""
    mask = 0
    for index in parameters:
        mask |= 1 << index
    return mask


def union(masks: Mapping[ValueId, int], values: Iterable[ValueId]) -> int:
    """Return the parameters in the masks of any of some values."""
    mask = 0
    for value in values:
        mask |= masks.get(value, 0)
    return mask


def _push_pairwise(
    masks: Masks, op: Op, values: Sequence[Value], owners: Mapping[ValueId, ParameterIndex]
) -> list[tuple[ValueId, int]]:
    """Push both sets through an op whose outputs depend on the inputs at their position alone.

    Returns (output, parameters whose gradient ends there) of each that is a cut.
    """
    cuts = []
    ends = has_zero_gradient(op, values)
    for position, output in enumerate(op.outputs):
        if output in op.inputs:
            continue
        sources = op.inputs[position :: len(op.outputs)]
        own_bit = 1 << owners[output] if output in owners else 0
        requires_grad = values[output].requires_grad
        returns = union(masks.live, sources)
        masks.data[output] = own_bit | union(masks.data, sources)
        masks.live[output] = own_bit if requires_grad else 0
        if (requires_grad and not ends) or op.region == IN_FUNCTION:
            masks.live[output] |= returns
        elif returns & ~own_bit:
            cuts.append((output, returns & ~own_bit))
    return cuts


def _kept(op: Op, live: Mapping[ValueId, int], dropped: Container[tuple[Any, int]]) -> int:
    """Return the parameters with gradient through a custom Function that drops some of it."""
    lost = passing = 0
    for position, value in enumerate(op.inputs):
        if (op.func, position) in dropped:
            lost |= live.get(value, 0)
    for position, value in enumerate(op.inputs):
        if (op.func, position) not in dropped:
            # the last input of all was computed inside: it depends on all the others
            inner = position == len(op.inputs) - 1
            passing |= live.get(value, 0) & (~lost if inner else -1)
    return passing


def _forgets(op: Op) -> bool:
    """Return True if nothing of an op's result depends on the values of a tensor."""
    return op.name in VALUE_FREE or (op.name in ("fill_", "bernoulli_") and len(op.inputs) == 1)


def has_zero_gradient(op: Op, values: Sequence[Value]) -> bool:
    """Return True if the gradient of an op is zero everywhere."""
    name = op.name.removeprefix("_foreach_")
    if name in ZERO_GRADIENT_IF_REAL:
        return "complex" not in str(values[op.inputs[0]].dtype)
    if name in ZERO_GRADIENT:
        return True
    return bool(op.kwargs) and name in DIVIDE and bool(op.kwargs.get("rounding_mode"))  # type: ignore[union-attr]


def value_inputs(op: Op) -> tuple[ValueId, ...]:
    """Return the inputs whose values the outputs of an op depend on."""
    inputs = op.inputs
    if len(inputs) > 1:
        if op.kind == KIND_WRITE and op.name in OVERWRITES:
            return inputs[1:]
        if op.name in SHAPED_AFTER:
            return inputs[:1]
    return () if _forgets(op) else inputs


def ancestors(ops: Sequence[Op], roots: Iterable[ValueId]) -> set[ValueId]:
    """Return the values on a data path to the roots, the roots included."""
    wanted = set(roots)
    for op in reversed(ops):
        if any(o in wanted for o in op.outputs):
            wanted.update(value_inputs(op))
    return wanted


def indices(mask: int) -> list[ParameterIndex]:
    """Return the set bits of a mask, lowest first."""
    if mask.bit_count() > 64:  # taking the bits off one by one copies the whole mask for each
        return [ParameterIndex(position) for position, digit in enumerate(reversed(f"{mask:b}")) if digit == "1"]
    positions = []
    while mask:
        low = mask & -mask
        positions.append(ParameterIndex(low.bit_length() - 1))
        mask ^= low
    return positions
