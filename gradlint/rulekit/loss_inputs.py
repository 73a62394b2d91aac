"""Losses whose input is the result of an activation that they compute themselves."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from gradlint.findings import Finding, Fix, Reporter
from gradlint.rulekit.context import Context
from gradlint.traces.ids import ValueId
from gradlint.traces.ops import Op


def find_loss_inputs(context: Context, names: Container[str]) -> Iterator[tuple[Op, ValueId]]:
    """Yield (loss, value of its input) for each call of these losses on a path to parameters."""
    for op in context.trace.ops[context.trace.forward_start :]:
        value = op.tensor(0, "input") if op.name in names else None
        if value is not None and context.flow.on_path.intersection(op.outputs):
            yield op, value


def activated_finding(
    rule: Reporter,
    context: Context,
    activations: Sequence[Op],
    loss: Op,
    message: str,
    fix: str,
    demoted: bool = False,
) -> Iterator[Finding]:
    """Yield the finding on a loss that gets the result of an activation.

    Silent if nothing trains before the activation. `activations` are the calls at one place. `message` is a template
    with the placeholders ``{parameters}`` and, optionally, ``{loss}``.
    """
    trace = context.trace
    activation = activations[0]
    trained = context.flow.trained_by(value for op in activations for value in op.inputs)
    if not trained:
        return
    layer = trace.module_of(activation)
    registered = None
    if layer is not None and layer.type.home.startswith("torch.nn"):
        text = f"the {layer.type.name} is added to the model here"
        registered = context.related(text, layer.registered_at)
    where = trace.location(activation.site)
    if where is None:
        where = registered.location if registered is not None else trace.location(loss.site)
    yield context.finding(
        rule,
        message.format(parameters=context.names(trained), loss=loss.name),
        at=where,
        parameters=trained,
        related=[
            context.related(f"passed to {loss.name} here", loss.site),
            registered,
            *context.callers(activation.site),
        ],
        fix=Fix(fix),
        demoted=demoted,
    )
