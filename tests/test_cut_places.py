"""A finding about a cut names the terms of the loss that the value without gradient enters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlint

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()
Loss = Callable[[tuple[Tensor, Tensor]], Tensor]


class Net(nn.Module):
    """A projection without gradient, computed from an encoder that trains by the head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.projection, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.encoder(x)
        with torch.no_grad():
            z = self.projection(h)
        return self.head(h), z


def one_term(out: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(out[0] + out[1][:, :3], torch.arange(6) % 3)


def two_terms(out: tuple[Tensor, Tensor]) -> Tensor:
    entropy = F.cross_entropy(out[0], torch.arange(6) % 3)
    invariance = out[1].square().mean()
    return entropy + 0.1 * invariance


def weighed_by_zero(out: tuple[Tensor, Tensor]) -> Tensor:
    entropy = F.cross_entropy(out[0] + out[1][:, :3], torch.arange(6) % 3)
    return entropy + 0.0 * out[1].square().mean()


def finding(loss: Loss, *, step: bool) -> gradlint.Finding:
    def build() -> dict[str, object]:
        torch.manual_seed(0)
        net, x = Net(), torch.randn(6, 6)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

        def train() -> None:
            optimizer.zero_grad()
            loss(net(x)).backward()
            optimizer.step()

        way = {"step": train} if step else {"loss": loss}
        return {"model": net, "inputs": (x,), "optimizer": optimizer, **way}

    (found,) = gradlint.check(build).findings
    assert found.code == "GL402"
    return found


def terms(found: gradlint.Finding) -> list[str]:
    return [LINES[r.location.line - 1].strip() for r in found.related if "in this term" in r.message]


@pytest.mark.parametrize("step", [False, True])
def test_the_term_that_the_value_enters_is_related(step: bool) -> None:
    assert terms(finding(two_terms, step=step)) == ["invariance = out[1].square().mean()"]


def test_a_loss_of_one_term_is_not_related() -> None:
    assert terms(finding(one_term, step=False)) == []


@pytest.mark.parametrize("step", [False, True])
def test_parameters_that_lose_only_that_term_are_named(step: bool) -> None:
    found = finding(two_terms, step=step)
    assert {name.split(".")[0] for name in found.parameters} == {"encoder", "projection"}
    assert "does not train encoder.*" in found.message


def test_parameters_that_lose_a_term_of_weight_zero_are_not_named() -> None:
    found = finding(weighed_by_zero, step=False)
    assert {name.split(".")[0] for name in found.parameters} == {"projection"}
