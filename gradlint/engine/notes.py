"""What is worth saying of a set-up beside its findings: what makes a clean verdict worth less than it looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gradlint.wording import summarize_names

if TYPE_CHECKING:
    from gradlint.traces.trace import Parameter, Trace


def nothing_to_judge(trace: Trace) -> str | None:
    """Why no verdict on a set-up means anything; None where one does."""
    if trace.training is not None and trace.training.backwards:
        return None
    if any(p.in_tree for p in trace.parameters) or any(trace.values[r].requires_grad for r in trace.roots):
        return None
    model = trace.setup.model
    if model is None:
        return "the set-up gives no model: add 'model', and 'inputs' and 'loss' if they cannot be found"
    named = " and ".join(type(m).__name__ for m in model.values()) if isinstance(model, dict) else type(model).__name__
    return (
        f"{named} has no parameters, so there is nothing to check: return the module that trains (layers in a plain "
        "list or dict do not count, nn.ModuleList and nn.ModuleDict do)"
    )


def remarks(trace: Trace) -> list[str]:
    """What the user should know about how a set-up trains, one sentence each."""
    said = []
    if trace.setup.step is not None and not trace.roots:
        said.append("step() ran no backward pass, and no 'loss' is given: only what needs no loss was judged")
    mine = [p for p in trace.parameters if p.in_tree]
    if mine and not trace.optimizers and not any(p.requires_grad for p in mine):
        said.append("no parameter is trainable: all are frozen, so nothing was judged that could train")
    watched = trace.training if trace.setup.step is None else None
    for optimizer in trace.optimizers:
        if watched is not None and not any(id(optimizer.optimizer) in step.optimizers for step in watched.steps):
            continue  # the turn of its model may come later
        held = [p for group in optimizer.optimizer.param_groups for p in group["params"]]
        if held and trace.parameters and all(_is_parameter(p) and id(p) not in trace.by_key for p in held):
            name = f"{optimizer.type} ({optimizer.name})" if optimizer.name else optimizer.type
            said.append(
                f"{name} holds none of the model's parameters: make it after the model that is returned, "
                "and after the last copy or replacement of its layers"
            )
    return said


def not_finite(roots: Sequence[Any], parameters: Iterable[Parameter]) -> list[str]:
    """A note where the loss or an output is NaN or infinite, with the parameters that were so before it."""
    import torch

    def spoilt(tensor: Any) -> bool:
        plain = isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and not tensor.is_meta
        return plain and tensor.numel() > 0 and not bool(torch.isfinite(tensor.detach()).all())

    with torch.no_grad():
        if not any(spoilt(root) for root in roots):
            return []
        known = list(parameters)
        guilty = [p for p in known if p.numel and spoilt(p.tensor)]
    if not guilty:
        return ["the loss or an output is NaN or infinite with these inputs: what depends on values is less certain"]
    are = "is" if len(guilty) == 1 else "are"
    return [
        f"the loss or an output is NaN or infinite, and so {are} {summarize_names(guilty, known)}: "
        "load or initialise the weights before training"
    ]


def _is_parameter(tensor: Any) -> bool:
    from torch.nn import Parameter as TorchParameter

    return isinstance(tensor, TorchParameter)
