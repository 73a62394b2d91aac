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


class GradientMasks:
    """The entries of gradients that user code has set to zero."""

    def __init__(self) -> None:
        self._before: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries with a gradient when user code first read it."""
        self._arrived: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries with a gradient before the hooks of user code."""
        self._masked: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries that were set to zero so far."""

    def on_read(self, key: ParameterKey, gradient: Tensor) -> None:
        """Note a gradient that user code reads, before it may write to it."""
        if key not in self._before and gradient.layout == torch.strided and is_readable(gradient):
            self._before[key] = gradient != 0

    def on_arrive(self, key: ParameterKey, gradient: Tensor, accumulated: Tensor | None) -> None:
        """Note a gradient before the hooks of user code, and what was accumulated before it."""
        if gradient.layout == torch.strided and is_readable(gradient):
            entries = (gradient != 0) & gradient.isfinite()
            earlier = self._arrived.get(key)
            goes_on = earlier is not None and accumulated is not None and nonzero(accumulated)
            self._arrived[key] = earlier | entries if goes_on and earlier is not None else entries

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
        masked = before & ~left
        if arrived is not None and not by_hook and not bool(masked.any()):
            by_hook, masked = True, arrived & ~left
        earlier = self._masked.get(key)
        lifted = earlier is not None and bool((earlier & left).any())
        self._masked[key] = masked if earlier is None else earlier | masked
        moved = bool((masked & (parameter.detach() != value_before)).any())
        return MaskedEntries(moved and bool(left.any()), lifted, by_hook)

    def on_accumulate(self, key: ParameterKey) -> None:
        """Forget what was read of a gradient, as more is added to it."""
        self._before.pop(key, None)
