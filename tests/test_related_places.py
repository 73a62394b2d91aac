"""Findings name and relate the places that explain them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradlint

LINES = Path(__file__).read_text(encoding="utf-8").splitlines()


def line(place: gradlint.Finding | gradlint.Related) -> str:
    return LINES[place.location.line - 1].strip() if place.location is not None else ""


def check(build: Callable[[], dict[str, Any]], code: str) -> gradlint.Finding:
    (found,) = (f for f in gradlint.check(build, show_info=True).findings if f.code == code)
    return found


def training(model: nn.Module, loss: Callable[[Any], Tensor] | None = None) -> dict[str, Any]:
    return {
        "model": model,
        "inputs": (torch.randn(6, 4),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        "loss": loss or (lambda out: out.square().mean()),
    }


class Scaled(nn.Module):
    """A tensor that is no parameter, written to in place after it was made."""

    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = make()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


def halved() -> Tensor:
    scale = nn.Parameter(torch.ones(4)) * 2
    scale.mul_(0.5)
    return scale.add_(1)


def initialised() -> Tensor:
    scale = torch.empty(4, requires_grad=True)
    return nn.init.ones_(scale)


def test_a_tensor_is_made_where_it_became_the_result_of_an_operation() -> None:
    found = check(lambda: training(Scaled(halved)), "GL105")
    assert "scale = nn.Parameter(torch.ones(4)) * 2" in map(line, found.related)


def test_a_leaf_is_made_where_it_is_created_and_not_where_it_is_initialised() -> None:
    found = check(lambda: training(Scaled(initialised)), "GL105")
    assert "scale = torch.empty(4, requires_grad=True)" in map(line, found.related)


class Branching(nn.Module):
    """An attribute that two branches assign."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        if plain:
            self.scale = torch.ones(4)
        else:
            self.scale = nn.Parameter(torch.ones(4)) * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.scale


def test_of_two_assignments_the_one_that_ran_is_reported() -> None:
    found = check(lambda: training(Branching(plain=False)), "GL105")
    assert line(found) == "self.scale = nn.Parameter(torch.ones(4)) * 2"


class Recreating(nn.Module):
    """A layer that each forward creates, by a variable of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        projection = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        return self.head(projection(x))


def test_a_layer_created_in_the_forward_is_named_by_its_variable() -> None:
    found = check(lambda: training(Recreating()), "GL107")
    assert found.parameters == ("projection.0.weight", "projection.0.bias")
    assert "creates projection.* " in found.message


class Backbone(nn.Module):
    """A frozen backbone in front of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).requires_grad_(False)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))


def pinned() -> dict[str, Any]:
    model = Backbone()
    model.backbone.eval()
    model.train()
    return training(model) | {"optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}


def evaluated_first() -> dict[str, Any]:
    model = Backbone()
    model.eval()
    model.train()
    return training(model) | {"optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}


def test_the_eval_of_a_frozen_norm_and_the_train_that_undid_it_are_related() -> None:
    lines = list(map(line, check(pinned, "GL201").related))
    assert "model.backbone.eval()" in lines
    assert "model.train()" in lines


def test_an_eval_of_the_whole_model_is_not_related() -> None:
    assert "model.eval()" not in map(line, check(evaluated_first, "GL201").related)


class Quantised(nn.Module):
    """An encoder behind a lookup, with or without a second cut that rounds its values."""

    def __init__(self, rounds: bool) -> None:
        super().__init__()
        self.encoder, self.codes, self.rounds = nn.Linear(4, 8), nn.Embedding(8, 3), rounds

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        found = self.codes(h.argmax(-1))
        return found + h[:, :3].round() if self.rounds else found


def severities(rounds: bool) -> set[tuple[str, gradlint.Severity]]:
    build = lambda: training(Quantised(rounds), lambda out: F.cross_entropy(out, torch.arange(6) % 3))  # noqa: E731
    findings = gradlint.check(build, show_info=True, select=["GL404"]).findings
    return {(f.message.split()[0], f.severity) for f in findings}


def test_an_index_alone_is_an_error() -> None:
    assert severities(rounds=False) == {("argmax", gradlint.Severity.ERROR)}


def test_an_index_beside_another_cut_is_info() -> None:
    assert severities(rounds=True) == {
        ("argmax", gradlint.Severity.INFO),
        ("round", gradlint.Severity.ERROR),
    }


class Block(nn.Module):
    """A block whose two halves a filter of names may freeze."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = (nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 4)) for _ in range(2))
        self.scale = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.scale(x) + self.inner(x))


def stack() -> dict[str, Any]:
    model = nn.Sequential(*(Block() for _ in range(6)), nn.Linear(4, 2))
    for name, parameter in model.named_parameters():
        if "inner" in name or "outer" in name:
            parameter.requires_grad_(False)
    return training(model) | {"optimizer": torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)}


def test_dropout_that_one_line_froze_is_one_finding() -> None:
    found = check(stack, "GL203")
    assert found.message.startswith("12 dropout layers are active inside the frozen *.inner, *.outer: ")
