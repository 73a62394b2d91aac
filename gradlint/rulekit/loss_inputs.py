"""The operands of losses: what computed them, and whether the loss expects that."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from gradlint.findings import Finding, Fix, Reporter
from gradlint.flow.origin import computed_value, computed_values
from gradlint.rulekit.context import Context
from gradlint.traces.ids import ValueId
from gradlint.traces.op_families import (
    BIASED_LAYERS,
    DETACHED_VALUES,
    DIVIDE,
    LOG_PROBABILITIES,
    MULTIPLY,
    PROBABILITIES,
)
from gradlint.traces.ops import TENSOR, Op
from gradlint.traces.trace import Trace


def find_loss_inputs(context: Context, names: Container[str]) -> Iterator[tuple[Op, ValueId]]:
    """Yield (loss, value of its input) for each call of these losses on a path to parameters."""
    for op in context.trace.ops[context.trace.forward_start :]:
        value = op.tensor(0, "input") if op.name in names else None
        if value is not None and context.flow.on_path.intersection(op.outputs):
            yield op, value


def find_targeted_losses(context: Context, names: Container[str]) -> Iterator[tuple[Op, ValueId, ValueId]]:
    """Yield (loss, value of its input, value of its target) for the calls of `find_loss_inputs`."""
    for op, value in find_loss_inputs(context, names):
        target = op.tensor(1, "target")
        if target is not None:
            yield op, value, target


def find_losses(context: Context, names: Container[str]) -> Iterator[Op]:
    """Yield the calls of these losses on a path to parameters."""
    return (op for op, _ in find_loss_inputs(context, names))


def find_producers(trace: Trace, value: ValueId | None) -> list[Op]:
    """Return the ops that computed a value.

    What rearranges, joins or detaches it is passed over, and a temperature of a layer's result. Empty if a part of the
    value has no known producer.
    """
    producers: list[Op] = []
    pending = [value]
    while pending:
        value = pending.pop()
        op = trace.made_by(value) if value is not None else None
        if op is None or value is None:
            return []
        if op.name in DETACHED_VALUES and op.inputs and op.inputs[0] != value:
            pending.append(op.inputs[0])
            continue
        sources = [source for source, _ in computed_values(trace, value)]
        if sources != [value]:
            pending.extend(sources)
        else:
            producers.append(_before_scale(trace, op))
    return producers


def _before_scale(trace: Trace, op: Op) -> Op:
    """Return the layer whose result an op multiplies or divides by a number, else the op itself."""
    if op.name in MULTIPLY or op.name in DIVIDE:
        numbers = [a for a in (op.argument(0, "input"), op.argument(1, "other")) if isinstance(a, (int, float))]
        if len(op.inputs) == 1 and len(numbers) == 1 and op.argument(0, "input") is TENSOR:
            before = trace.made_by(computed_value(trace, op.inputs[0])[0])
            if before is not None and before.name in BIASED_LAYERS:
                return before
    return op


def softmax_dim(trace: Trace, softmax: Op) -> int:
    """Return the axis along which a softmax runs."""
    dims = len(trace.values[softmax.outputs[0]].shape)
    dim = softmax.argument(1, "dim")
    if not isinstance(dim, int):
        dim = 0 if dims in (0, 1, 3) else 1  # torch's own, deprecated choice
    return dim % max(dims, 1)


def are_exchanged(loss: Op, given: Sequence[Op], target: Sequence[Op]) -> bool:
    """Return True if a kl_div gets probabilities as input and log-probabilities as target."""
    if loss.name != "kl_div" or loss.argument(5, "log_target", False) is True:
        return False
    return bool(
        given
        and target
        and all(op.name in PROBABILITIES for op in given)
        and all(op.name in LOG_PROBABILITIES for op in target)
    )


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
