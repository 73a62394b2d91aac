"""Findings about one training setup never say opposite things about a parameter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlint


class Net(nn.Module):
    """An encoder that a line was meant to freeze, and a head."""

    def __init__(self, freeze: Callable[[nn.Module], None], cut: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 4), nn.Linear(4, 2)
        self.cut = cut
        freeze(self.encoder)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cut(self.encoder(x)))


def on_module(layer: nn.Module) -> None:
    layer.requires_grad = False


def misspelled(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.require_grad = False


def on_data(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.data.requires_grad = False


FREEZES = {"GL102": on_module, "GL103": misspelled, "GL110": on_data}
CUTS = {"GL401": torch.Tensor.detach, "GL404": torch.round}


def messages(freeze: Callable[[nn.Module], None], cut: Callable[[Tensor], Tensor]) -> dict[str, str]:
    def build() -> dict[str, object]:
        torch.manual_seed(0)
        net = Net(freeze, cut)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        return {"model": net, "inputs": (torch.randn(3, 4),), "optimizer": optimizer, "loss": lambda o: o.sum()}

    return {f.code: f.message for f in gradlint.check(build).findings}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("freeze", FREEZES)
def test_a_freeze_without_effect_does_not_say_that_cut_parameters_train(freeze: str, cut: str) -> None:
    found = messages(FREEZES[freeze], CUTS[cut])
    assert found.keys() == {freeze, cut}
    assert found[freeze].endswith("still require grad.")


@pytest.mark.parametrize("freeze", FREEZES)
def test_a_freeze_without_effect_says_that_reached_parameters_train(freeze: str) -> None:
    found = messages(FREEZES[freeze], torch.relu)
    assert found.keys() == {freeze}
    assert found[freeze].endswith("still train.")
