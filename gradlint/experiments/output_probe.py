"""Whether gradient comes from one part of a model's output to parameters: by autograd's word, and by its value."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlint.errors import TargetError
from gradlint.experiments.perturb import adding_noise
from gradlint.flow.flow import Flow
from gradlint.load.setup import Setup
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.replay import Replay
from gradlint.traces.ids import ParameterIndex
from gradlint.traces.trace import Parameter

Pick = Callable[[Any], Any] | str | int | None
"""Part of the output: a function of it, a path into it (``"logits"``, ``"0.hidden"``) or an index.

None for the loss, or for the whole output without a loss.
"""


class Probe:
    """Replaces the loss of a setup, so that gradient is followed from the picked part of the output."""

    def __init__(self, pick: Pick) -> None:
        self.pick = pick
        self._loss: Callable[[Any], Any] | None = None
        self._wanted: Sequence[Tensor] = ()
        self._grads: list[Tensor | None] = []

    def amend(self, setup: Setup) -> Setup:
        """Return the setup with the probe as its loss, and without optimizer, step and contract."""
        self._loss = setup.loss
        return dataclasses.replace(setup, loss=self, step=None, optimizer=None, trains=(), frozen=())

    def __call__(self, output: Any) -> Tensor:
        """Return the picked part as one scalar.

        Several values get different weights, because a plain sum may be constant.
        """
        chosen = picked(output, self.pick) if self.pick is not None or self._loss is None else self._loss(output)
        if self.pick is None and self._loss is None:
            own = getattr(output, "loss", None)
            chosen = own if isinstance(own, Tensor) else output
        scalar = _weighed(chosen, "the output" if self.pick is None else f"what from_output={_shown(self.pick)} picks")
        if self._wanted and scalar.requires_grad:
            self._grads = list(torch.autograd.grad(scalar, list(self._wanted), retain_graph=True, allow_unused=True))
        return scalar

    def zero(self, replay: Replay | None, parameters: Sequence[Parameter]) -> set[ParameterIndex]:
        """Return the indices of the parameters whose gradient is zero in every element.

        It must be zero for the model as it is, and again with a little noise on all parameters. Without noise, a layer
        that is initialised to zero, as in LoRA, lets nothing through.
        """
        if replay is None or not parameters:
            return set()
        self._wanted = [replay.tensors[p.key] for p in parameters]
        everything = {str(key): tensor for key, tensor in replay.tensors.items()}
        nothing = set(range(len(parameters)))
        try:
            for context in (contextlib.nullcontext(), adding_noise(everything, replay.undo)):
                self._grads = []
                with context:
                    replay()
                if not self._grads:
                    return set()
                nothing &= {i for i, g in enumerate(self._grads) if g is None or not bool(_values(g).count_nonzero())}
        except Exception:
            return set()  # the noisy model may fail; then what autograd's graph says is the verdict
        finally:
            self._wanted = ()
        return {parameters[i].index for i in nothing}


def reaching(
    flow: Flow, probe: Probe, replay: Replay | None, parameters: Sequence[Parameter]
) -> tuple[set[ParameterIndex], set[ParameterIndex]]:
    """Return the parameters (indices) with a gradient, and those where it is always zero."""
    reached = [p for p in parameters if p.index in flow.reached]
    zero = probe.zero(replay, reached) | ({p.index for p in parameters} & flow.trace.reached_zero)
    return {p.index for p in reached} - zero, zero


def picked(output: Any, pick: Pick) -> Any:
    """Return a part of an output.

    Raises:
        TargetError: the path leads nowhere.
    """
    if pick is None:
        return output
    if callable(pick):
        return pick(output)
    value = output
    for part in str(pick).split("."):
        value = _member(value, part, pick)
    return value


def _member(value: Any, part: str, pick: Pick) -> Any:
    number = int(part) if part.lstrip("-").isdigit() else None
    with contextlib.suppress(KeyError, IndexError, AttributeError, TypeError):
        if isinstance(value, Mapping):
            return value[part] if part in value or number is None else value[number]
        if number is not None:
            return value[number]
        return getattr(value, part)
    members = ", ".join(_members(value))
    raise TargetError(
        f"from_output={pick!r}: {type(value).__name__} has no {part!r}" + (f"; it has {members}" if members else "")
    )


def _members(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from map(str, list(value)[:8])
    elif isinstance(value, (list, tuple)) and value:
        yield f"0 to {len(value) - 1}"
    elif not isinstance(value, Tensor):
        yield from list(getattr(value, "__dict__", {}))[:8]


def _weighed(chosen: Any, what: str) -> Tensor:
    tensors = [t for t in tensors_in(chosen) if t.is_floating_point() or t.is_complex()]
    if not tensors:
        kind = f"a tensor of {chosen.dtype}" if isinstance(chosen, Tensor) else f"a {type(chosen).__name__}"
        raise TargetError(
            f"{what} is {kind} and holds no floating-point tensor: there is no gradient to follow from it"
        )
    if len(tensors) == 1 and tensors[0].numel() == 1:
        return tensors[0]
    terms: list[Tensor] = []
    for tensor in tensors:
        real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        weights = torch.rand(real.shape, generator=torch.Generator().manual_seed(len(terms)), device="cpu")
        terms.append((real * (weights + 0.5).to(real.device, real.dtype)).sum())
    total = terms[0]
    for term in terms[1:]:
        total = total + term.to(total.device)
    return total


def _values(grad: Tensor) -> Tensor:
    return grad.coalesce().values() if grad.is_sparse else grad


def _shown(pick: Pick) -> str:
    return getattr(pick, "__name__", repr(pick)) if callable(pick) else repr(pick)
