"""Reached means a defined gradient: a loss, a step and a recorded loop give the same verdict on every parameter."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gradlint


class Drop(torch.autograd.Function):
    """Passes values on and returns None."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        return None


class Second(torch.autograd.Function):
    """Returns no gradient for the second of two inputs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class Double(torch.autograd.Function):
    """Turns a missing gradient into zeros, as Functions do by default."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


class Pull(torch.autograd.Function):
    """Adds a gradient of its own, whatever arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad + ctx.saved_tensors[0]


class Round(torch.autograd.Function):
    """A straight-through estimator."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


class Net(nn.Module):
    """Two layers: `a` behind what a test tries, `b` beside it."""

    def __init__(self, way: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self, x)


def square(output: Tensor) -> Tensor:
    return output.square().sum()


def clear(parameter: Tensor) -> None:
    """Update a parameter in the backward itself, and free its gradient."""
    with torch.no_grad():
        assert parameter.grad is not None
        parameter.sub_(parameter.grad, alpha=0.1)
    parameter.grad = None


def overwritten(old: Tensor, new: Tensor) -> Tensor:
    old.data.copy_(new)
    return old


def frozen_call(layer: nn.Module, x: Tensor) -> Tensor:
    layer.requires_grad_(False)
    out = layer(x)
    layer.requires_grad_(True)
    return out


LOST: dict[str, tuple[Callable[[Net, Tensor], Tensor], str]] = {
    "a Function returns None": (lambda m, x: Drop.apply(m.a(x)) + m.b(x), "GL408"),
    "a Function returns None for one input": (lambda m, x: Second.apply(m.b(x), m.a(x)), "GL408"),
    "None, then a Function that gives zeros": (lambda m, x: Drop.apply(Double.apply(m.a(x))) + m.b(x), "GL408"),
    "None in a checkpoint": (
        lambda m, x: checkpoint(lambda y: Drop.apply(m.a(y)) + m.b(y), x, use_reentrant=False),
        "GL408",
    ),
    "written beside autograd": (lambda m, x: overwritten(m.b(x), m.a(x)), "GL403"),
    "frozen for the call": (lambda m, x: frozen_call(m.a, x) + m.b(x), "GL402"),
    "round": (lambda m, x: m.a(x).round() + m.b(x), "GL404"),
    "round after a Function": (lambda m, x: Double.apply(m.a(x)).round() + m.b(x), "GL404"),
    "a Function after round": (lambda m, x: Double.apply(m.a(x).round()) + m.b(x), "GL404"),
    "round on both ways": (lambda m, x: m.a(x).round() + m.a(x).sign() + m.b(x), "GL404"),
    "two roundings in a row": (lambda m, x: (m.a(x).round() / 2).floor() + m.b(x), "GL404"),
}

KEPT: dict[str, Callable[[Net, Tensor], Tensor]] = {
    "a Function returns None on one of two ways": lambda m, x: Drop.apply(m.a(x)) + m.a(x) + m.b(x),
    "a Function returns None for a constant": lambda m, x: Second.apply(m.a(x) + m.b(x), x.detach()),
    "round on one of two ways": lambda m, x: m.a(x).round() + m.a(x) + m.b(x),
    "frozen for one of two calls": lambda m, x: frozen_call(m.a, x) + m.a(x) + m.b(x),
    "written in place": lambda m, x: m.b(x).clone().copy_(m.a(x)) + m.b(x),
    "its own value written beside autograd": lambda m, x: overwritten(m.a(x), m.a(x).relu()) + m.b(x),
    "straight through": lambda m, x: Round.apply(m.a(x)) + m.b(x),
    "a Function that adds a gradient, below round": lambda m, x: Pull.apply(m.a(x)).round() + m.b(x),
    "reentrant checkpoint": lambda m, x: checkpoint(m.a, x.requires_grad_(), use_reentrant=True) + m.b(x),
    "zero in its first step": lambda m, x: m.a(x) * 0.0 + m.a(x) + m.b(x),
}


def by_loss(way: Callable[[Net, Tensor], Tensor]) -> gradlint.Report:
    net = Net(way)
    return gradlint.check({"model": net, "inputs": (torch.randn(3, 4),), "loss": square, "optimizer": sgd(net)})


def by_step(way: Callable[[Net, Tensor], Tensor]) -> gradlint.Report:
    net = Net(way)
    optimizer = sgd(net)
    return gradlint.check({"model": net, "optimizer": optimizer, "step": lambda: train(net, optimizer)})


def by_both(way: Callable[[Net, Tensor], Tensor]) -> gradlint.Report:
    net = Net(way)
    optimizer = sgd(net)
    return gradlint.check(
        {
            "model": net,
            "inputs": (torch.randn(3, 4),),
            "loss": square,
            "optimizer": optimizer,
            "step": lambda: train(net, optimizer),
        }
    )


def by_loop(way: Callable[[Net, Tensor], Tensor]) -> gradlint.Report:
    with gradlint.record() as recording:
        net = Net(way)
        optimizer = sgd(net)
        for _ in range(3):
            train(net, optimizer)
    return gradlint.check(recording)


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.01)


def train(net: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    square(net(torch.randn(3, 4))).backward()
    optimizer.step()


FORMS = [by_loss, by_step, by_both, by_loop]


def found(report: gradlint.Report) -> set[tuple[str, tuple[str, ...]]]:
    assert not report.errors
    return {(f.code, f.parameters) for f in report.findings}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", LOST)
def test_lost_gradient_is_reported_in_every_form(case: str, form: Callable[..., gradlint.Report]) -> None:
    way, code = LOST[case]
    assert found(form(way)) == {(code, ("a.weight", "a.bias"))}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", KEPT)
def test_gradient_on_another_way_counts_in_every_form(case: str, form: Callable[..., gradlint.Report]) -> None:
    assert found(form(KEPT[case])) == set()


def test_gradient_cleared_within_backward_counts() -> None:
    net = Net(lambda m, x: m.a(x) + m.b(x))
    for parameter in net.parameters():
        parameter.register_post_accumulate_grad_hook(clear)

    def step() -> None:
        square(net(torch.randn(3, 4))).backward()

    report = gradlint.check({"model": net, "step": step})
    assert report.targets[0].reached == 4


def test_gradient_that_is_missing_in_some_steps_only_counts() -> None:
    drops = iter([True, False, True, False])
    net = Net(lambda m, x: (Drop.apply(m.a(x)) if next(drops) else m.a(x)) + m.b(x))
    optimizer = sgd(net)
    report = gradlint.check({"model": net, "optimizer": optimizer, "step": lambda: train(net, optimizer)})
    assert found(report) == set()


def test_rounding_in_some_steps_only_is_no_cut() -> None:
    rounds = iter([True, False, True, False])
    net = Net(lambda m, x: (m.a(x).round() if next(rounds) else m.a(x).relu()) + m.b(x))
    nn.init.constant_(net.a.bias, -50.0)  # the ReLU is dead: its zeros are those of the values, not of the operation
    optimizer = sgd(net)
    report = gradlint.check({"model": net, "optimizer": optimizer, "step": lambda: train(net, optimizer)})
    assert found(report) == set()


def test_the_hook_on_parameters_is_gone_afterwards() -> None:
    net = Net(lambda m, x: m.a(x) + m.b(x))
    optimizer = sgd(net)
    gradlint.check({"model": net, "optimizer": optimizer, "step": lambda: train(net, optimizer)})
    assert not any(p._backward_hooks for p in net.parameters())


def test_saving_a_followed_tensor_gives_no_warning(tmp_path: Any) -> None:
    tensor = torch.zeros(4, requires_grad=True)
    with warnings.catch_warnings(), gradlint.record() as recording:
        warnings.simplefilter("error")
        optimizer = torch.optim.SGD([tensor], lr=0.1)
        for _ in range(3):
            (tensor - 1).square().sum().backward()
            torch.save(tensor, tmp_path / "tensor.pt")
            optimizer.step()
    assert recording.trace.training is not None
