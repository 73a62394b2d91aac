"""The summands that a scalar is the sum of, with their constant factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradlint.flow.facts import FlowFacts
from gradlint.flow.origin import computed_value
from gradlint.traces.ids import CallIndex, OpIndex, ValueId
from gradlint.traces.op_families import (
    DETACHED_VALUES,
    DIVIDE,
    MULTIPLY,
    NEGATE,
    REDUCTIONS,
    RESHAPES,
    REVERSE_SUBTRACT,
    SCALAR_KEEPING,
    SUBTRACT,
    SUMS,
)
from gradlint.traces.ops import TENSOR, Op
from gradlint.traces.trace import Trace


@dataclass(frozen=True)
class Summand:
    """One summand of a scalar, or of the elements whose sum or mean a scalar is."""

    value: ValueId
    factor: float | None
    """Its constant factor, apart from tensors and from the share in a mean; None if unknown."""
    weights: tuple[ValueId, ...] = ()
    """The tensors among its constant factors, whose values are not recorded."""
    reduced_in: CallIndex | None = None
    """The module call in which the elements are reduced; None for a scalar."""

    def of(self, value: ValueId, times: float | None = 1.0) -> Summand:
        """Return the summand that another value is in its place, with a further factor."""
        return replace(self, value=value, factor=_times(self.factor, times))


def taken_apart(
    trace: Trace, data: Mapping[ValueId, int], whole: Summand, through_detach: bool, elementwise: bool
) -> tuple[list[Summand], set[OpIndex]]:
    """Take a summand apart through sums, differences and constant factors.

    Args:
        trace: the recording.
        data: value → parameters it depends on; a factor that depends on any is no constant.
        whole: the summand.
        through_detach: whether to look behind a detach.
        elementwise: whether to look below a sum or mean of elements, as far as it is written in the same forward.

    Returns:
        The terms, and the ops through which it was taken apart.
    """
    result: list[Summand] = []
    through: set[OpIndex] = set()
    pending = [whole]
    while pending:
        term = pending.pop()
        parts = parts_of(trace, data, term, through_detach, elementwise)
        if parts is None:
            result.append(term)
        else:
            through.add(trace.values[term.value].producer)
            pending.extend(reversed(parts))
    return result, through


def parts_of(
    trace: Trace, data: Mapping[ValueId, int], term: Summand, through_detach: bool, elementwise: bool = False
) -> list[Summand] | None:
    """Return the terms that a term is the sum of; None if it is one by itself."""
    entry = trace.values[term.value]
    if entry.producer < trace.forward_start:
        return None
    op = trace.ops[entry.producer]
    name = op.name
    if name in REDUCTIONS and not entry.shape and (parts := _stacked(trace, data, op)) is not None:
        share = 1.0 if name == "sum" else 1.0 / len(parts)
        return [term.of(t.value, _times(share, t.factor)) for t in parts]
    if entry.shape or any(trace.values[v].shape for v in op.inputs):
        if not elementwise:
            return None
        if name in REDUCTIONS and not entry.shape and len(op.inputs) == 1:
            return [replace(term.of(op.inputs[0]), reduced_in=op.call)]
        if term.reduced_in != op.call:
            return None
    keeps = SCALAR_KEEPING if term.reduced_in is None else SCALAR_KEEPING | RESHAPES
    if len(op.inputs) == 1 and (name in keeps or (through_detach and name in DETACHED_VALUES)):
        return [term.of(op.inputs[0])]
    if name in NEGATE:
        return [term.of(op.inputs[0], -1.0)]
    if name in SUMS:
        alpha = op.argument(2, "alpha", 1)
        scale = float(alpha) if isinstance(alpha, (int, float)) else None
        signs: tuple[float | None, float | None] = (1.0, scale)
        if name in SUBTRACT:
            signs = (1.0, _times(scale, -1.0))
        elif name in REVERSE_SUBTRACT:
            signs = (_times(scale, -1.0), 1.0)
        operands = (op.tensor(0, "input"), op.tensor(1, "other"))
        return [term.of(v, s) for v, s in zip(operands, signs, strict=True) if v is not None]
    if name in MULTIPLY or name in DIVIDE:
        return _scaled(data, term, op)
    source, _ = computed_value(trace, term.value)
    return [term.of(source)] if source != term.value and not trace.values[source].shape else None


def _stacked(trace: Trace, data: Mapping[ValueId, int], op: Op) -> list[Summand] | None:
    """Return the scalars that were stacked into a vector, then weighted by constants and summed."""
    weighted = False
    value = op.tensor(0, "input")
    while value is not None and len(trace.values[value].shape) == 1:
        producer = trace.values[value].producer
        stack = trace.ops[producer] if producer >= trace.forward_start else None
        if stack is None:
            return None
        if stack.name == "stack" or (stack.name in ("cat", "hstack") and _single(trace, stack)):
            return [Summand(v, None if weighted else 1.0) for v in stack.inputs]
        if stack.name not in MULTIPLY or len(stack.inputs) > 2:
            return None
        rest = [v for v in stack.inputs if data.get(v)]
        if len(rest) != 1 or trace.values[rest[0]].shape != trace.values[value].shape:
            return None
        weighted, value = True, rest[0]
    return None


def _single(trace: Trace, op: Op) -> bool:
    return all(trace.values[v].shape == (1,) for v in op.inputs)


def _scaled(data: Mapping[ValueId, int], term: Summand, op: Op) -> list[Summand] | None:
    """Return the one operand of a product that is not constant, with the other as its factor."""
    operands = [(op.tensor(0, "input"), op.argument(0, "input")), (op.tensor(1, "other"), op.argument(1, "other"))]
    if op.name in DIVIDE and op.argument(2, "rounding_mode") is not None:
        return None
    for (value, _), (other, number) in (operands, operands[::-1]):
        if value is None or (other is not None and data.get(other)):
            continue
        if op.name in DIVIDE and value != operands[0][0]:
            return None
        if other is None and number is not TENSOR:
            if not isinstance(number, (int, float)):
                return None
            factor = (1 / number if number else None) if op.name in DIVIDE else float(number)
            return [term.of(value, factor)]
        return [replace(term.of(value), weights=(*term.weights, *(() if other is None else (other,))))]
    return None


def added_number(trace: Trace, op: Op) -> float | None:
    """Return the Python number that an op adds to a scalar; None if it does anything else."""
    if op.name not in SUMS or len(op.outputs) != 1 or trace.values[op.outputs[0]].shape:
        return None
    return first_number(op.args, op.kwargs)


def first_number(args: Sequence[Any], kwargs: Mapping[str, Any] | None) -> float | None:
    """Return the first Python float among the operands of a sum."""
    numbers = [*args, *((kwargs or {}).get(name) for name in ("other", "input"))]
    return next((float(a) for a in numbers[:2] if isinstance(a, float)), None)


def _times(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first * second


def summands(flow: FlowFacts, root: ValueId) -> list[ValueId]:
    """Return the scalars that a loss is the sum of."""
    parts, _ = taken_apart(flow.trace, flow.masks.data, Summand(root, 1.0), through_detach=False, elementwise=False)
    return list(dict.fromkeys(term.value for term in parts))
