"""Follow the entries of gradients that user code sets to zero by hand, from step to step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gradlint.recorder.facts.autograd import nonzero
from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import ParameterKey


class MaskedEntries(NamedTuple):
    """What a step did to the entries of a gradient that are masked: see `Content`."""

    moved: bool = False
    lifted: bool = False
    by_hook: bool = False
    by_place: bool = False


class GradientMasks:
    """The entries of gradients that user code has set to zero."""

    def __init__(self) -> None:
        self._before: dict[ParameterKey, Tensor] = {}
        """Parameter → its gradient when user code first read it."""
        self._arrived: dict[ParameterKey, Tensor | None] = {}
        """Parameter → its gradient before the hooks of user code; not known for a sum of several passes."""
        self._masked: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries that were set to zero so far."""

    def on_read(self, key: ParameterKey, gradient: Tensor) -> None:
        """Note a gradient that user code reads, before it may write to it."""
        if key not in self._before and gradient.layout == torch.strided and is_readable(gradient):
            self._before[key] = gradient.clone()

    def on_arrive(self, key: ParameterKey, gradient: Tensor, accumulated: Tensor | None) -> None:
        """Note a gradient before the hooks of user code, and what was accumulated before it."""
        if gradient.layout == torch.strided and is_readable(gradient):
            is_sum = key in self._arrived and accumulated is not None and nonzero(accumulated)
            self._arrived[key] = None if is_sum else gradient.clone()

    def on_step(self, key: ParameterKey, parameter: Tensor, value_before: Tensor) -> MaskedEntries:
        """Return what a step did to the masked entries of a parameter."""
        arrived, before, grad = self._arrived.pop(key, None), self._before.pop(key, None), parameter.grad
        if before is None and arrived is not None:
            by_hook, before = True, arrived
        else:
            by_hook = False
        if before is None or grad is None or before.shape != grad.shape:
            return MaskedEntries()
        left = grad != 0
        masked = (before != 0) & before.isfinite() & ~left
        if arrived is not None and not by_hook and not bool(masked.any()):
            by_hook, before = True, arrived
            masked = (before != 0) & before.isfinite() & ~left
        earlier = self._masked.get(key)
        lifted = earlier is not None and bool((earlier & left).any())
        self._masked[key] = masked if earlier is None else earlier | masked
        moved = bool((masked & (parameter.detach() != value_before)).any())
        moved = moved and bool(left.any())
        return MaskedEntries(moved, lifted, by_hook, moved and not _is_by_value(before, masked, left))

    def on_accumulate(self, key: ParameterKey) -> None:
        """Forget what was read of a gradient, as more is added to it."""
        self._before.pop(key, None)


def _is_by_value(gradient: Tensor, masked: Tensor, left: Tensor) -> bool:
    """Return True if a threshold may have chosen the masked entries, on their values or sizes."""
    for size in (gradient, gradient.abs()):
        small, large = size[masked], size[left]
        if bool(small.max() <= large.min()) or bool(small.min() >= large.max()):
            return True
    return False
