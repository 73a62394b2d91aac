"""Notes beside the findings: reasons why a clean verdict may be worth less than it looks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gradlint.traces.trace import Trace


def nothing_to_judge(trace: Trace) -> str | None:
    """Return the reason why no verdict on a setup means anything; None if one does."""
    if trace.training is not None and trace.training.backwards:
        return None
    if any(p.in_tree for p in trace.parameters) or any(trace.values[r].requires_grad for r in trace.roots):
        return None
    if not trace.setup.models:
        return "the setup gives no model: add 'model', and 'inputs' and 'loss' if they cannot be found"
    named = " and ".join(trace.modules[number].type.name for _, number in trace.setup.models)
    return (
        f"{named} has no parameters, so there is nothing to check: return the module that trains (layers in a plain "
        "list or dict do not count, nn.ModuleList and nn.ModuleDict do)"
    )


def remarks(trace: Trace) -> list[str]:
    """Return notes on how a setup trains, one sentence each."""
    said = []
    if trace.setup.has_step and not trace.roots:
        said.append("step() ran no backward pass and no 'loss' is given: rules that need a loss did not run")
    mine = [p for p in trace.parameters if p.in_tree]
    if mine and not trace.optimizers and not any(p.requires_grad for p in mine):
        said.append("all parameters are frozen: no parameter can train")
    watched = None if trace.setup.has_step else trace.training
    for optimizer in trace.optimizers:
        if watched is not None and not any(optimizer.key in step.optimizers for step in watched.steps):
            continue  # the turn of its model may come later
        held = optimizer.keys
        foreign = bool(held) and optimizer.holds_parameters_only and held.isdisjoint(trace.by_key)
        if foreign and trace.parameters:
            name = f"{optimizer.type} ({optimizer.name})" if optimizer.name else optimizer.type
            said.append(
                f"{name} holds none of the model's parameters: make it after the model that is returned, "
                "and after the last copy or replacement of its layers"
            )
    return said
