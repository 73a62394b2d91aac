"""Operations whose gradient is zero everywhere: one table serves autograd's graph and the recorded data flow."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gradlint

ZERO = """
torch.round(a)
torch.round(a, decimals=1)
torch.special.round(a)
a.clone().round_()
a.floor()
a.clone().ceil_()
torch.trunc(a)
torch.fix(a)
a.sign()
torch.sgn(a)
torch.angle(a)
torch.normal(a, 0.1)
torch.normal(0.0, a.exp())
torch.normal(a, torch.ones_like(a))
torch.bernoulli(a.sigmoid())
torch.empty_like(a).bernoulli_(a.sigmoid())
torch.poisson(a.exp())
torch.div(a, 2.0, rounding_mode="floor")
torch.div(a, torch.ones_like(a), rounding_mode="trunc")
a // 0.5
torch.floor_divide(a, 0.5)
torch.heaviside(a, torch.ones(()))
torch.binomial(torch.full_like(a, 5.0), a.sigmoid())
a.clone().gt_(0.0)
torch._foreach_floor([a])[0]
torch._foreach_sign([a, a * 2])[1]
torch.copysign(torch.ones_like(a), a)
torch.nextafter(torch.ones_like(a), a)
""".strip().splitlines()

GRADIENT = """
torch.div(a, 2.0, rounding_mode=None)
torch.frac(a)
a % 0.7
torch.copysign(a, torch.ones_like(a))
torch.nextafter(a, torch.ones_like(a))
torch.sgn(torch.complex(a, a * 2 + 1)).real
torch.angle(torch.complex(a, a * a + 1))
a + (a.round() - a).detach()
torch.fake_quantize_per_tensor_affine(a, 0.1, 0, -128, 127)
torch.zeros_like(a).copy_(a)
torch.normal(torch.zeros_like(a), 1.0) + a
Round.apply(a)
""".strip().splitlines()


class Round(torch.autograd.Function):
    """A straight-through estimator with the name of an operation whose gradient is zero."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: object, grad: Tensor) -> Tensor:
        return grad


class Net(nn.Module):
    def __init__(self, expression: str) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.code = compile(expression, "<expression>", "eval")

    def forward(self, x: Tensor) -> Tensor:
        return eval(self.code, {"torch": torch, "Round": Round, "a": self.a(x)}) + self.b(x)


def codes_of(expression: str) -> set[tuple[str, tuple[str, ...]]]:
    torch.manual_seed(0)
    setup = {"model": Net(expression), "inputs": (torch.randn(3, 4),), "loss": lambda out: out.square().sum()}
    return {(f.code, f.parameters) for f in gradlint.check(setup).findings}


@pytest.mark.parametrize("expression", ZERO)
def test_an_operation_with_zero_gradient_everywhere_is_a_cut(expression: str) -> None:
    assert codes_of(expression) == {("GL404", ("a.weight", "a.bias"))}


@pytest.mark.parametrize("expression", GRADIENT)
def test_an_operation_with_a_gradient_somewhere_is_no_cut(expression: str) -> None:
    assert codes_of(expression) == set()


@pytest.mark.parametrize("write", ["fill_(0.5)", "zero_()", "uniform_()", "random_()", "bernoulli_(0.5)", "normal_()"])
def test_a_result_that_is_written_over_is_unused(write: str) -> None:
    assert {code for code, _ in codes_of(f"a.clone().{write}")} <= {"GL405", "GL412"}
