"""Losses that are given what they compute themselves: where that is, and how to say so. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence

from gradlint.findings import Finding, Fix, Severity
from gradlint.rulekit.context import Context
from gradlint.rulekit.rule import Rule
from gradlint.traces.trace import Op


def fed_losses(context: Context, names: Container[str]) -> Iterator[tuple[Op, int]]:
    """The calls of losses on the way to what is trained, each with the value that it is given to judge."""
    for op in context.trace.ops[context.trace.forward_start :]:
        given = op.tensor(0, "input") if op.name in names else None
        if given is not None and context.flow.on_path.intersection(op.outputs):
            yield op, given


def activated_finding(
    rule: Rule,
    context: Context,
    activations: Sequence[Op],
    loss: Op,
    message: Callable[[str], str],
    fix: Fix,
    severity: Severity | None = None,
) -> Iterator[Finding]:
    """The finding on a loss that is given the result of an activation, which several calls at one place computed.

    Silent where nothing trains before the activation. `message` is given the names of what does.
    """
    trace = context.trace
    activation = activations[0]
    trained = context.flow.trained_by(value for op in activations for value in op.inputs)
    if not trained:
        return
    layer = trace.module_of(activation)
    made = None
    if layer is not None and layer.type.home.startswith("torch.nn"):
        made = context.related(f"the {layer.type.name} was put into the model here", layer.registered_at)
    where = trace.location(activation.site) or (made.location if made is not None else trace.location(loss.site))
    yield context.finding(
        rule,
        message(context.names(trained)),
        at=where,
        parameters=trained,
        related=[
            context.related(f"{loss.name} is given it here", loss.site),
            made,
            *context.callers(activation.site),
        ],
        fix=fix,
        severity=severity,
    )
