"""GL608 log-softmax-over-wrong-axis."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from gradlint import Context, Finding, Fix, Op, Rule, Severity, Trace
from gradlint.flow import computed_value, computed_values
from gradlint.rulekit import find_targeted_losses, softmax_dim
from gradlint.traces import DETACHED_VALUES, SOFTMAX, ValueId

_NLL = frozenset("nll_loss nll_loss2d nll_loss_nd".split())


class LogSoftmaxOverWrongAxis(Rule):
    """Log-probabilities that are normalized along another axis than that of the classes.

    ## What it does
    Finds `nll_loss` on a log_softmax along another axis than the classes, which are axis 1, or axis 0 of a vector. Ops
    that only rearrange may stand between. Finds `kl_div` whose input and target are normalized along different axes.
    With `reduction="batchmean"`, it also finds those that are normalized along the batch: a warning.

    ## Why it is bad
    The values are no log-probabilities of the classes: over the batch they sum to one, over the classes they do not.
    The samples of a batch compete with each other, and the model learns something else than the classes.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.nll_loss(out.log_softmax(0), torch.arange(6) % 3)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.nll_loss(out.log_softmax(1), torch.arange(6) % 3)}
    ```

    ## Known limits
    Not reported on a square matrix, or against a target made by `arange`: contrastive losses normalize along either
    axis. Not reported if axes were merged or anything was computed in between, or if the loss is written by hand.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html (input: (N, C) or (N, C, d1, d2, ...))
    """

    code = "GL608"
    name = "log-softmax-over-wrong-axis"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    MESSAGE = (
        "{softmax} runs along axis {axis}, but nll_loss expects classes along axis {classes}: the gradient of "
        "{parameters} is wrong."
    )
    MESSAGE_IMPLICIT = (
        "{softmax} without dim runs along axis {axis}, but nll_loss expects classes along axis {classes}: the gradient "
        "of {parameters} is wrong."
    )
    MESSAGE_TARGET = (
        "kl_div compares an input normalized along axis {axis} with a target normalized along axis {classes}: the "
        "gradient of {parameters} is wrong."
    )
    MESSAGE_BATCH = "{softmax} runs along axis 0, the batch for kl_div: the gradient of {parameters} is wrong."
    RELATED = "{softmax} is applied here"
    FIX = "Give {softmax} the axis of the classes, dim={classes}."
    FIX_TARGET = "Normalize the input and the target along the same axis."
    FIX_BATCH = "Give {softmax} the axis of the classes, for example dim=-1."

    def check(self, context: Context) -> Iterator[Finding]:
        wrong = [*_wrong_nll(context), *_wrong_kl_div(context)]
        for (site, softmax_site, kind), members in context.by_place(
            wrong, lambda w: (w.loss.site, w.softmax.site, w.kind)
        ):
            first = members[0]
            trained = context.flow.trained_by(v for w in members for v in w.loss.inputs)
            if not trained:
                continue
            message, fix = {
                _Kind.CLASSES: (self.MESSAGE, self.FIX),
                _Kind.IMPLICIT: (self.MESSAGE_IMPLICIT, self.FIX),
                _Kind.TARGET: (self.MESSAGE_TARGET, self.FIX_TARGET),
                _Kind.BATCH: (self.MESSAGE_BATCH, self.FIX_BATCH),
            }[kind]
            fields = {"softmax": first.softmax.name, "axis": first.axis, "classes": first.classes}
            yield context.finding(
                self,
                message.format(**fields, parameters=context.names(trained)),
                at=context.trace.location(site) or context.trace.location(softmax_site),
                parameters=trained,
                related=[
                    context.related(self.RELATED.format(**fields), softmax_site),
                    *context.callers(site),
                ],
                severity=Severity.WARNING if kind is _Kind.BATCH else None,
                fix=Fix(fix.format(**fields)),
            )


class _Kind(Enum):
    CLASSES = 0
    IMPLICIT = 1
    TARGET = 2
    BATCH = 3


class _Wrong(NamedTuple):
    """A softmax along an axis that the loss takes for another."""

    loss: Op
    softmax: Op
    kind: _Kind
    axis: int
    """Axis of its result along which it runs."""
    classes: int
    """Axis that the loss takes for that of the classes, or along which the target is normalized."""


def _wrong_nll(context: Context) -> Iterator[_Wrong]:
    """Yield the calls of log_softmax along another axis than the classes of nll_loss."""
    trace = context.trace
    for loss, value, target in find_targeted_losses(context, _NLL):
        shape = trace.values[value].shape
        if _is_square(shape) or _is_counted(trace, target):
            continue
        sources = computed_values(trace, value, 1 if len(shape) > 1 else 0)
        wrong = []
        for source, classes in sources:
            softmax = trace.made_by(source)
            if softmax is not None and softmax.name == "log_softmax" and classes is not None:
                kind = _Kind.IMPLICIT if softmax.argument(1, "dim") is None else _Kind.CLASSES
                axis = softmax_dim(trace, softmax)
                if axis != classes:
                    wrong.append(_Wrong(loss, softmax, kind, axis, classes))
        if len(wrong) == len(sources):
            yield from wrong


def _wrong_kl_div(context: Context) -> Iterator[_Wrong]:
    """Yield the softmaxes of a kl_div along another axis than its target's, or along the batch."""
    trace = context.trace
    for loss, value, target in find_targeted_losses(context, ("kl_div",)):
        shape = trace.values[value].shape
        given, theirs = _normalized(trace, value), _normalized(trace, target)
        if given is None or trace.values[target].shape != shape:
            continue
        softmax, axis = given
        if theirs is not None and theirs[1] != axis:
            yield _Wrong(loss, softmax, _Kind.TARGET, axis, theirs[1])
        elif axis == 0 and len(shape) > 1 and not _is_square(shape) and loss.argument(4, "reduction") == "batchmean":
            yield _Wrong(loss, softmax, _Kind.BATCH, axis, axis)


def _normalized(trace: Trace, value: ValueId) -> tuple[Op, int] | None:
    """Return the only softmax that gave a value, with the axis of the value along which it runs."""
    for axis in range(len(trace.values[value].shape)):
        source = value
        before: int | None = axis
        while True:
            source, before = computed_value(trace, source, before)
            op = trace.made_by(source)
            if op is None or op.name not in DETACHED_VALUES:
                break
            source = op.inputs[0]
        if op is not None and op.name in SOFTMAX and before == softmax_dim(trace, op):
            return op, axis
    return None


def _is_square(shape: tuple[int, ...]) -> bool:
    """Return True for a matrix of all pairs of a batch."""
    return len(shape) == 2 and shape[0] == shape[1]


def _is_counted(trace: Trace, target: ValueId) -> bool:
    """Return True if a target numbers the entries of a batch, as in contrastive losses."""
    op = trace.made_by(computed_value(trace, target)[0])
    return op is not None and op.name == "arange"
