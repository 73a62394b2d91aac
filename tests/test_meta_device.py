"""Models on the meta device."""

from __future__ import annotations

import torch
from torch import nn

import gradlint


class ReadsItsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, device="meta")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layer(x)
        return out if out.sum().item() > 0 else out * 2


def test_a_forward_that_reads_values_on_the_meta_device_is_not_said_to_lack_inputs() -> None:
    (failure,) = gradlint.check(ReadsItsValues()).errors
    assert "on the meta device" in failure.message
    assert "--input" not in failure.message
