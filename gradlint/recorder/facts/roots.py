"""The roots of the gradient: the loss, or the outputs of the forward."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlint.errors import TargetError
from gradlint.load.inputs.values import all_tensors
from gradlint.load.setup import Setup
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.user_code import gradlint_runs_user_code, user_errors
from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import ParameterKey
from gradlint.traces.trace import Parameter
from gradlint.wording import summarize_names


@dataclasses.dataclass(frozen=True)
class Roots:
    """The tensors that gradient is followed from."""

    tensors: tuple[Tensor, ...]
    described: str
    scalar: bool


def loss_roots(loss: Any) -> Roots:
    """Return the scalar that a loss function returned, taken out of a list or a mapping.

    Raises:
        TargetError: backward() would refuse it.
    """
    if isinstance(loss, (list, tuple)) and loss and isinstance(loss[0], Tensor):
        loss = loss[0]
    elif isinstance(loss, Mapping) and isinstance(loss.get("loss"), Tensor):
        loss = loss["loss"]
    if not isinstance(loss, Tensor):
        got = "None" if loss is None else f"a {type(loss).__name__}"
        advice = (
            "drop its .item() or float()" if isinstance(loss, (int, float)) else "return what backward() is called on"
        )
        raise TargetError(f"the loss function returned {got} instead of a scalar tensor: {advice}")
    if loss.numel() != 1:
        shape = ", ".join(map(str, loss.shape))
        raise TargetError(
            f"the loss function returned a tensor[{shape}] instead of a scalar, and backward() refuses it: "
            "reduce it with .mean() or .sum()"
        )
    if loss.is_complex():
        raise TargetError(
            "the loss function returned a complex scalar, and backward() refuses it: take .abs() or .real"
        )
    return Roots((loss,), "given", True)


def roots_of(setup: Setup, output: Any, ran: bool, recorder: Recorder, notes: list[str]) -> Roots:
    """Return the loss of a setup, the output's own, or every differentiable output.

    The loss is called under the recorder.
    """
    if not ran:
        return Roots((), "none: no forward was run, because the training setup has no inputs", False)
    if setup.loss is not None:
        with recorder, user_errors("the loss"):
            loss = gradlint_runs_user_code(setup.loss, output)
        return loss_roots(loss)
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return Roots((own,), "the output's own", True)
    floating = [t for t in all_tensors(output) if t.is_floating_point() or t.is_complex()]
    if len(floating) == 1 and floating[0].dim() == 0:
        return Roots((floating[0],), "the model's scalar output", True)
    live = [t for t in floating if t.requires_grad]
    chosen = live or floating
    if not chosen:
        what = "None" if output is None else f"a {type(output).__name__} without a floating-point tensor"
        notes.append(f"the forward returned {what}, and no loss is given: is a `return` missing?")
        return Roots((), "none given, and no output to follow gradient from", False)
    each = "the output" if len(chosen) == 1 else f"each of {len(chosen)} outputs"
    return Roots(tuple(chosen), f"none given: gradient is followed from {each}", False)


def not_finite(
    roots: Sequence[Tensor], parameters: Sequence[Parameter], tensors: Mapping[ParameterKey, Tensor]
) -> list[str]:
    """Return a note if the loss or an output is NaN or infinite.

    It names the parameters that were so before it.
    """
    with torch.no_grad():
        if not any(_is_spoilt(root) for root in roots):
            return []
        spoilt = [p for p in parameters if p.numel and _is_spoilt(tensors[p.key])]
    if not spoilt:
        return ["the loss or an output is NaN or infinite with these inputs: what depends on values is less certain"]
    are = "is" if len(spoilt) == 1 else "are"
    return [
        f"the loss or an output is NaN or infinite, and so {are} {summarize_names(spoilt, parameters)}: "
        "load or initialise the weights before training"
    ]


def _is_spoilt(tensor: Any) -> bool:
    plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and is_readable(tensor)
    return plain and tensor.numel() > 0 and not bool(torch.isfinite(tensor.detach()).all())
