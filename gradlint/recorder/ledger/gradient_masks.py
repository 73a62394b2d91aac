"""Follow the entries of gradients that user code sets to zero by hand, from step to step."""

from __future__ import annotations

import torch
from torch import Tensor

from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import ParameterKey


class GradientMasks:
    """The entries of gradients that user code has set to zero."""

    def __init__(self) -> None:
        self._before: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries with a gradient when user code first read it."""
        self._masked: dict[ParameterKey, Tensor] = {}
        """Parameter → the entries that were set to zero so far."""

    def on_read(self, key: ParameterKey, gradient: Tensor) -> None:
        """Note a gradient that user code reads, before it may write to it."""
        if key not in self._before and gradient.layout == torch.strided and is_readable(gradient):
            self._before[key] = gradient != 0

    def on_step(self, key: ParameterKey, parameter: Tensor, value_before: Tensor) -> tuple[bool, bool]:
        """Return (True if masked entries moved, True if a mask was lifted) at a step."""
        before, grad = self._before.pop(key, None), parameter.grad
        if before is None or grad is None or before.shape != grad.shape:
            return False, False
        left = grad != 0
        masked = before & ~left
        earlier = self._masked.get(key)
        lifted = earlier is not None and bool((earlier & left).any())
        self._masked[key] = masked if earlier is None else earlier | masked
        moved = bool((masked & (parameter.detach() != value_before)).any())
        return moved and bool(left.any()), lifted

    def on_accumulate(self, key: ParameterKey) -> None:
        """Forget what was read of a gradient, as more is added to it."""
        self._before.pop(key, None)
