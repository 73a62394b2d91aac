"""Which parameters each recorded value depends on, and which of them its gradient would return to.

Sets of parameters are bit masks: bit *i* is the parameter at index *i*. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gradlint.traces.ids import OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import DIVIDE, NEW_LEAF, OVERWRITES, PAIRWISE, VALUE_FREE, ZERO_GRADIENT
from gradlint.traces.trace import IN_FUNCTION, KIND_OPAQUE, KIND_WRITE, Op, Value


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
    custom Function, where grad mode is off by design, the gradient counts as kept; what comes out of it tells.

    Args:
        dropped: as `Trace.dropped`.
    """
    data: dict[ValueId, int] = {}
    live: dict[ValueId, int] = {}
    cuts: list[tuple[OpIndex, ValueId, int]] = []
    for value, index in owners.items():
        data[value] = 1 << index
        if values[value].requires_grad:
            live[value] = 1 << index
    for number in range(len(ops)):
        op = ops[number]
        _, _, _, region, inputs, outputs, _, _, kind = op
        depends = 0
        returns = 0
        for i in inputs:
            depends |= data.get(i, 0)
            returns |= live.get(i, 0)
        if not depends:
            continue
        name = op.name
        if name in VALUE_FREE:
            continue
        if len(outputs) > 1 and (name in PAIRWISE or name.startswith("_foreach_")):
            for position, output in enumerate(outputs):
                if output in inputs:
                    continue
                mine = 0 if output not in owners else 1 << owners[output]
                data[output] = mine
                live[output] = mine if values[output].requires_grad else 0
                for i in inputs[position :: len(outputs)]:
                    data[output] |= data.get(i, 0)
                    live[output] |= live.get(i, 0) if values[output].requires_grad or region == IN_FUNCTION else 0
            continue
        kept = returns
        if region == IN_FUNCTION:
            for output in outputs:
                data[output] = data.get(output, 0) | depends
                live[output] = live.get(output, 0) | returns
            continue
        if kind == KIND_OPAQUE and dropped:
            kept = _kept(op, live, dropped)
        if name in ZERO_GRADIENT or name in NEW_LEAF or _rounds(op):
            kept = 0
        if kind == KIND_WRITE and name in OVERWRITES and len(inputs) > 1:
            depends = kept = returns = 0
            for i in inputs[1:]:
                depends |= data.get(i, 0)
                returns |= live.get(i, 0)
            kept = returns
        for output in outputs:
            if output in inputs:
                continue  # given back as it was
            own = owners.get(output)
            mine = 0 if own is None else 1 << own
            data[output] = depends | mine
            carries = kept if values[output].requires_grad else 0
            if mine and values[output].requires_grad:
                carries = mine  # a leaf stays a leaf, whatever was written to it
            live[output] = carries
            lost = returns & depends & ~carries & ~mine
            if lost and number >= start:
                cuts.append((OpIndex(number), output, lost))
    return Masks(data, live, cuts)


def _kept(op: Op, live: Mapping[ValueId, int], dropped: Container[tuple[Any, int]]) -> int:
    """What gradient returns to through a custom Function some of whose inputs get None."""
    lost = kept = 0
    for position, value in enumerate(op.inputs):
        if (op.func, position) in dropped:
            lost |= live.get(value, 0)
    for position, value in enumerate(op.inputs):
        if (op.func, position) not in dropped:
            # the last input of all is what was computed inside: it depends on all the others
            inner = position == len(op.inputs) - 1
            kept |= live.get(value, 0) & (~lost if inner else -1)
    return kept


def _rounds(op: Op) -> bool:
    return bool(op.kwargs) and op.name in DIVIDE and bool(op.kwargs.get("rounding_mode"))  # type: ignore[union-attr]


def ancestors(ops: Sequence[Op], roots: Iterable[ValueId]) -> set[ValueId]:
    """The values on a data path to the roots, the roots included."""
    wanted = set(roots)
    for op in reversed(ops):
        if any(o in wanted for o in op.outputs) and op.name not in VALUE_FREE:
            inputs = op.inputs
            if op.kind == KIND_WRITE and op.name in OVERWRITES and len(inputs) > 1:
                inputs = inputs[1:]
            wanted.update(inputs)
    return wanted


def indices(mask: int) -> list[ParameterIndex]:
    """The set bits of a mask, lowest first."""
    found = []
    while mask:
        low = mask & -mask
        found.append(ParameterIndex(low.bit_length() - 1))
        mask ^= low
    return found
