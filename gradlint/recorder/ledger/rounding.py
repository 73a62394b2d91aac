"""Count the entries of a low-precision parameter that a step was to change and left as they were."""

from __future__ import annotations

import torch
from torch import Tensor

_LOW_PRECISION = frozenset((torch.bfloat16, torch.float16))


def count_updates(parameter: Tensor, before: Tensor) -> tuple[int, int]:
    """Return (number of entries with a gradient, number of those that did not change).

    Both are zero for a parameter of a precise data type.
    """
    grad = parameter.grad
    if parameter.dtype not in _LOW_PRECISION or grad is None or grad.layout != torch.strided:
        return 0, 0
    due = grad != 0
    return int(due.sum()), int((due & (parameter.detach() == before)).sum())
