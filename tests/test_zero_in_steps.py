"""A gradient of zero in every recorded step: reported where the record shows that it stays zero, and only there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import gradlint


class Adapted(nn.Module):
    """A layer with a branch of two layers beside it, which begin at given values."""

    def __init__(self, down: float, up: float, bias: float | None = None) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.down, self.up = nn.Linear(4, 2, bias=bias is not None), nn.Linear(2, 4, bias=False)
        nn.init.constant_(self.down.weight, down)
        nn.init.constant_(self.up.weight, up)
        if bias is not None:
            nn.init.constant_(self.down.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.up(self.down(x))


class Scored(nn.Module):
    """Weighs what it sees by scores that are normalized over the outputs of a layer."""

    def __init__(self, scores: int, dim: int = -1) -> None:
        super().__init__()
        self.score, self.body, self.dim = nn.Linear(4, scores), nn.Linear(4, 4), dim

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) * self.score(x).softmax(self.dim).mean(-1, keepdim=True)


class Attended(nn.Module):
    """Attends over a sequence, whose length the inputs decide."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        sequence = x.unsqueeze(1)
        return self.attention(sequence, sequence, sequence)[0]


class Dead(nn.Module):
    """Beside a live layer one whose units are all inactive."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.dead = nn.Linear(4, 4), nn.Linear(4, 4)
        nn.init.constant_(self.dead.bias, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.dead(x).relu()


class Experts(nn.Module):
    """One expert of two is chosen, and each begins at zero in its last layer and in its biases."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(2))
        for expert in self.experts:
            for name, parameter in expert.named_parameters():
                if name != "0.weight":
                    nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.experts[0](x) + 0.0 * self.experts[1](x)


BAD: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "two zeros in a row": (lambda: Adapted(0.0, 0.0), {"down.weight", "up.weight"}),
    "two zeros in a row, and a bias of zero": (lambda: Adapted(0.0, 0.0, 0.0), {"down.weight", "up.weight"}),
    "softmax over one score": (lambda: Scored(1), {"score.weight", "score.bias"}),
}

GOOD: dict[str, Callable[[], nn.Module]] = {
    "the second begins at zero": lambda: Adapted(0.3, 0.0),
    "the first begins at zero": lambda: Adapted(0.0, 0.3),
    "two zeros, and a bias between": lambda: Adapted(0.0, 0.0, 0.5),
    "softmax over the batch": lambda: Scored(1, dim=0),
    "softmax over several scores": lambda: Scored(3),
    "attention over a sequence of one": Attended,
    "dead units": Dead,
    "an expert that is not chosen": Experts,
}


def found(make: Callable[[], nn.Module], lr: float = 0.1) -> set[tuple[str, ...]]:
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def step() -> None:
        optimizer.zero_grad()
        (model(torch.randn(5, 4)) - 1).square().mean().backward()
        optimizer.step()

    report = gradlint.check({"model": model, "optimizer": optimizer, "step": step})
    return {f.parameters for f in report.findings if f.code == "GL605"}


@pytest.mark.parametrize("case", BAD)
def test_a_gradient_that_stays_zero_is_reported(case: str) -> None:
    make, names = BAD[case]
    assert [set(parameters) - {"down.bias"} for parameters in found(make)] == [names]


@pytest.mark.parametrize("case", GOOD)
def test_a_gradient_that_is_zero_for_now_is_not_reported(case: str) -> None:
    assert found(GOOD[case]) == set()


def test_a_schedule_that_begins_at_zero_proves_nothing() -> None:
    assert found(lambda: Adapted(0.3, 0.0), lr=0.0) == set()


def test_a_loss_that_is_met_proves_nothing() -> None:
    class Met(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.up.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.up(self.down(x))

    assert found(Met) == set()
