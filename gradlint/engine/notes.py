"""Notes beside the findings: facts about a training setup that make a clean verdict worth less."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlint.flow.flow import Flow
    from gradlint.traces.trace import Optimizer, Trace
    from gradlint.traces.training import Training

NO_MODEL = "the training setup has no model: return 'model', and 'inputs' and 'loss' if they are not found"
NO_PARAMETERS = (
    "{models} has no parameters: return the module that trains (a plain list or dict does not register layers, "
    "nn.ModuleList and nn.ModuleDict do)"
)
NO_BACKWARD = "step() ran no backward pass: let it call backward() and step the optimizer, or give a 'loss' instead"
NO_LOSS = "step() ran no backward pass and no 'loss' is given: rules that need a loss did not run"
REACHES_NOTHING = (
    "no backward pass of step() reaches a parameter of the model: compute the loss from the model that is returned"
)
ALL_FROZEN = "all parameters are frozen: no parameter can train"
FOREIGN_OPTIMIZER = (
    "{optimizer} contains none of the model's parameters: create it after the model that is returned, and after the "
    "last copy or replacement of its layers"
)

_GRADIENTS = frozenset({"grad", "vjp", "jvp", "jacobian", "grad_and_value"})
"""Calls that compute gradients without a backward pass."""


def nothing_to_judge(trace: Trace) -> str | None:
    """Return why a training setup cannot be judged; None if it can."""
    if trace.training is not None and trace.training.backwards:
        return None
    if any(p.in_tree for p in trace.parameters) or any(trace.values[r].requires_grad for r in trace.roots):
        return None
    if not trace.setup.models:
        return NO_MODEL
    return NO_PARAMETERS.format(models=" and ".join(trace.modules[i].type.name for _, i in trace.setup.models))


def trains_nothing(trace: Trace) -> str | None:
    """Return why the step of a training setup cannot train its model; None if it can."""
    training = trace.training
    if training is None or not trace.setup.has_step:
        return None
    if not training.backwards:
        return None if _differentiates(trace, training) else NO_BACKWARD
    is_trainable = any(p.in_tree and p.requires_grad for p in trace.parameters)
    trained = trace.by_key.keys() | frozenset().union(*(o.keys for o in trace.optimizers))
    return REACHES_NOTHING if is_trainable and training.reached.isdisjoint(trained) else None


def _differentiates(trace: Trace, training: Training) -> bool:
    """Return True if steps without a backward pass may train.

    User code may compute gradients by other calls, or set gradients or values, or do so unseen.
    """
    if trace.unrecorded or any(op.name in _GRADIENTS for op in trace.ops[training.start :]):
        return True
    moved = any(c.nonzero or c.moved for step in training.steps for c in step.content.values())
    return moved or any(p.written for p in trace.parameters)


def notes(flow: Flow) -> Iterator[str]:
    """Yield what the user should know about how a training setup trains, one sentence each."""
    trace = flow.trace
    if trace.setup.has_step and not trace.roots:
        yield NO_LOSS
    parameters = [p for p in trace.parameters if p.in_tree]
    if parameters and not trace.optimizers and not any(p.requires_grad for p in parameters):
        yield ALL_FROZEN
    for optimizer in trace.optimizers:
        is_reported = any(parted.optimizer is optimizer for parted in flow.parted)
        if trace.parameters and not is_reported and _is_foreign(trace, optimizer):
            name = f"{optimizer.type} ({optimizer.name})" if optimizer.name else optimizer.type
            yield FOREIGN_OPTIMIZER.format(optimizer=name)


def _is_foreign(trace: Trace, optimizer: Optimizer) -> bool:
    """Return True if an optimizer contains parameters, and none of the model's."""
    if trace.training is not None and not trace.setup.has_step:
        # of a script only the first steps are recorded: the model of an optimizer without a step may come later
        if not any(optimizer.key in step.optimizers for step in trace.training.steps):
            return False
    keys = optimizer.keys
    return bool(keys) and optimizer.holds_parameters_only and keys.isdisjoint(trace.by_key)
