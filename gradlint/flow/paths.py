"""A path from one parameter to the loss, op by op."""

from __future__ import annotations

from gradlint.location import Location
from gradlint.traces.dataflow import ancestors
from gradlint.traces.ids import ValueId
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter, Trace


def path_to_loss(trace: Trace, parameter: Parameter, first: int, *, by_gradient: bool) -> list[int]:
    """Return the numbers of the ops on one path from a parameter to the loss.

    Args:
        first: number of the first op that may be on it, one that reads the parameter.
        by_gradient: take only ops whose result requires grad: a path on which gradient returns.
    """
    ops = trace.ops
    live = [op for op in ops if any(trace.values[o].requires_grad for o in op.outputs)] if by_gradient else ops
    wanted = ancestors(live, trace.roots)
    following: dict[ValueId, list[int]] = {}
    for number in range(first, len(ops)):
        if not by_gradient or any(trace.values[o].requires_grad for o in ops[number].outputs):
            for value in ops[number].inputs:
                following.setdefault(value, []).append(number)

    def step(values: set[ValueId], after: int) -> int | None:
        next_ops = [n for v in values for n in following.get(v, ()) if n > after and _leads(ops[n], wanted)]
        return min(next_ops, default=None)

    path: list[int] = []
    following_op = step(set(trace.values_of.get(parameter.index, ())), first - 1)
    while following_op is not None:
        path.append(following_op)
        following_op = step(set(ops[following_op].outputs), following_op)
    return path


def lines_of(trace: Trace, path: list[int]) -> list[Location]:
    """Return the lines of user code on a path of ops, each once, in order."""
    places: dict[tuple[str, int], Location] = {}
    for number in path:
        frame = trace.frame(trace.ops[number].site)
        if frame is not None and frame.project:
            places.setdefault((frame.location.path, frame.location.line), frame.location)
    return list(places.values())


def _leads(op: Op, wanted: set[ValueId]) -> bool:
    return any(o in wanted for o in op.outputs)
