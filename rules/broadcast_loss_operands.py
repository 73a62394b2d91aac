"""GL609 broadcast-loss-operands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gradlint import Context, Finding, Fix, Op, Rule, Severity, Trace
from gradlint.flow import computed_value, rearranging_ops, repeated_shape
from gradlint.rulekit import find_targeted_losses
from gradlint.traces import DETACHED_VALUES, MULTIPLY, SUBTRACT, ValueId

_LOSSES = frozenset("mse_loss l1_loss smooth_l1_loss huber_loss kl_div poisson_nll_loss gaussian_nll_loss".split())
"""Losses that broadcast their operands; the others refuse different shapes."""
_ARRANGES = frozenset("view reshape transpose transpose_ swapaxes permute movedim t T mT expand".split())
"""Functions, beside unsqueeze and an index with None, by which code lines up axes by hand."""
_SIZES = frozenset("pow __pow__ pow_ square square_ abs abs_ absolute".split())
"""Functions that make a difference a distance."""
_TOTALS = frozenset("mean sum".split())


class BroadcastLossOperands(Rule):
    """A loss that compares each prediction with every target.

    ## What it does
    Finds `mse_loss`, `l1_loss`, `smooth_l1_loss`, `huber_loss`, `kl_div`, `poisson_nll_loss` and `gaussian_nll_loss`
    whose two operands have the same elements, but shapes that do not line up: (n, 1) and (n,). Broadcasting repeats
    both, to (n, n). The same difference written by hand, squared or absolute, then averaged, is a warning.

    ## Why it is bad
    Each prediction is drawn to all targets, so the model learns their mean. The loss falls at first and then stalls.
    torch warns once on stderr, and not for a difference written by hand.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 1)
        y = torch.randn(6)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.mse_loss(out, y)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 1)
        y = torch.randn(6)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.mse_loss(out.squeeze(1), y)}
    ```

    ## Known limits
    Not reported if code lines up the axes by hand for all pairs, as `x.unsqueeze(1)` and `y.unsqueeze(0)`. Not reported
    if only one operand is repeated, or a batch of one hides the mistake. Written by hand, the loss must be a difference
    of a tensor with gradient and one without. It must be squared or absolute, then averaged or summed over everything.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.MSELoss.html (target: same shape as the input)
    """

    code = "GL609"
    name = "broadcast-loss-operands"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    MESSAGE = (
        "{loss} broadcasts {first} and {second} to {result}: it compares each output of {parameters} with every target."
    )
    FIX = "Give both operands the same shape, for example by target.reshape(input.shape)."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        compared = [*_losses(context), *_differences(context)]
        for (_, shapes), members in context.by_place(compared, lambda c: (c[0].site, tuple(_shapes(trace, c)))):
            op = members[0][0]
            trained = context.flow.trained_by(v for member in members for v in member[1:])
            if trained:
                is_loss = op.name in _LOSSES
                yield context.finding(
                    self,
                    self.MESSAGE.format(
                        loss=op.name if is_loss else "the difference",
                        first=shapes[0],
                        second=shapes[1],
                        result=repeated_shape(*shapes),
                        parameters=context.names(trained),
                    ),
                    at=op.site,
                    parameters=trained,
                    related=context.callers(op.site),
                    severity=None if is_loss else Severity.WARNING,
                    fix=Fix(self.FIX),
                )


def _losses(context: Context) -> Iterator[tuple[Op, ValueId, ValueId]]:
    """Yield (loss, input, target) where both operands are repeated, and not on purpose."""
    trace = context.trace
    for op, value, target in find_targeted_losses(context, _LOSSES):
        if not _are_repeated(trace, value, target):
            continue
        ranks = [len(trace.values[v].shape) for v in (value, target)]
        by_hand = [_lined_up(trace, v) for v in (value, target)]
        if ranks[0] == ranks[1] and any(by_hand):
            continue
        inserted = any(_inserts_axis(trace, v) for v in (value, target))
        if inserted and (op.argument(4, "reduction") == "none" or _has_vectors(trace, value, target)):
            continue  # a matrix of all pairs, or the distances of all pairs of vectors
        yield op, value, target


def _differences(context: Context) -> Iterator[tuple[Op, ValueId, ValueId]]:
    """Yield (difference, operand, operand) where the loss is its size over all pairs."""
    trace = context.trace
    for op in trace.ops[trace.forward_start :]:
        if op.name not in SUBTRACT or len(op.inputs) != 2:
            continue
        first, second = op.inputs
        if not _are_repeated(trace, first, second) or any(_lined_up(trace, v) for v in op.inputs):
            continue
        if len(trace.values[first].shape) == len(trace.values[second].shape):
            continue
        is_ranking = all(trace.values[v].requires_grad for v in op.inputs)
        if not is_ranking and _is_totalled(context, op.outputs[0]) and not _compares_itself(context, op):
            yield op, first, second


def _is_totalled(context: Context, difference: ValueId) -> bool:
    """Return True if nothing but the total size of a difference is used."""
    return any(
        reader.name in _TOTALS and not context.trace.values[reader.outputs[0]].shape
        for size in _readers(context, difference)
        if size.name in _SIZES or (size.name in MULTIPLY and set(size.inputs) == {difference})
        for reader in _readers(context, size.outputs[0])
    )


def _readers(context: Context, value: ValueId) -> list[Op]:
    """Return the only op on the path to the loss that reads a value; empty if there are several."""
    trace, flow = context.trace, context.flow
    ops = [trace.ops[n] for n in flow.consumers.get(value, ())]
    ops = [op for op in ops if flow.on_path.intersection(op.outputs)]
    return ops if len(ops) == 1 else []


def _compares_itself(context: Context, difference: Op) -> bool:
    """Return True if an operand is also compared with itself, as in an energy distance."""
    trace = context.trace
    own = {_origin(trace, v) for v in difference.inputs}
    return any(
        op.name in SUBTRACT
        and len(op.inputs) == 2
        and len(origins := {_origin(trace, v) for v in op.inputs}) == 1
        and origins <= own
        for op in trace.ops[trace.forward_start :]
    )


def _are_repeated(trace: Trace, first: ValueId, second: ValueId) -> bool:
    shapes = [trace.values[v].shape for v in (first, second)]
    return repeated_shape(*shapes) is not None and _origin(trace, first) != _origin(trace, second)


def _origin(trace: Trace, value: ValueId) -> ValueId:
    """Return the value that was computed, before anything that rearranges or detaches it."""
    value, _ = computed_value(trace, value)
    op = trace.made_by(value)
    return _origin(trace, op.inputs[0]) if op is not None and op.name in DETACHED_VALUES else value


def _lined_up(trace: Trace, value: ValueId) -> bool:
    """Return True if code lines up the axes of an operand by hand."""
    return _inserts_axis(trace, value) or any(op.name in _ARRANGES for op in rearranging_ops(trace, value))


def _inserts_axis(trace: Trace, value: ValueId) -> bool:
    """Return True if code inserts an axis into an operand."""
    return any(
        op.name in ("unsqueeze", "unsqueeze_") or (op.name == "__getitem__" and _has_none(op.args[1]))
        for op in rearranging_ops(trace, value)
    )


def _has_none(index: Any) -> bool:
    return index is None or (isinstance(index, tuple) and any(part is None for part in index))


def _has_vectors(trace: Trace, first: ValueId, second: ValueId) -> bool:
    """Return True if both operands have rows of several entries: (n, 1, d) and (n, d)."""
    shapes = sorted((trace.values[v].shape for v in (first, second)), key=len)
    return len(shapes[0]) == 2 and min(shapes[0][-1], shapes[1][-1]) > 1


def _shapes(trace: Trace, compared: tuple[Op, ValueId, ValueId]) -> list[tuple[int, ...]]:
    return [tuple(trace.values[v].shape) for v in compared[1:]]
