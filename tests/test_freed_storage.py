"""Parameters, buffers and gradients whose memory is freed between uses, as sharding and offloading do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gradlint
from gradlint.restore.tensors import is_readable, same_values


def free(tensor: Tensor) -> None:
    tensor.untyped_storage().resize_(0)


def fill(tensor: Tensor, saved: Tensor) -> None:
    if not tensor.untyped_storage().nbytes():
        tensor.untyped_storage().resize_(saved.untyped_storage().nbytes())
        tensor.data.copy_(saved)


def freed(tensor: Tensor) -> Tensor:
    free(tensor)
    return tensor


class Offloaded(nn.Module):
    """Keeps the weight of a layer elsewhere between uses."""

    def __init__(self) -> None:
        super().__init__()
        self.big, self.small = nn.Linear(4, 4), nn.Linear(4, 2)
        self.saved = self.big.weight.detach().clone()
        free(self.big.weight)

    def forward(self, x: Tensor) -> Tensor:
        fill(self.big.weight, self.saved)
        return self.small(self.big(x).relu())

    def put_away(self) -> None:
        self.saved.copy_(self.big.weight.detach())
        free(self.big.weight)


class FreedInForward(Offloaded):
    """Frees the weight after its use, and fills it again for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        fill(self.big.weight, self.saved)
        hidden = self.big(x)
        hidden.register_hook(lambda _: fill(self.big.weight, self.saved))
        free(self.big.weight)
        return self.small(hidden.relu())


class FreedBuffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.saved = nn.Linear(4, 2), torch.ones(4)
        self.register_buffer("scale", freed(torch.ones(4)))

    def forward(self, x: Tensor) -> Tensor:
        fill(self.scale, self.saved)
        out = self.layer(x * self.scale)
        free(self.scale)
        return out


def setup(
    model: nn.Module, *more: Tensor, after: Callable[[], None] = lambda: None, inputs_need_grad: bool = False
) -> dict[str, Any]:
    optimizer = torch.optim.SGD([*model.parameters(), *more], lr=0.1, momentum=0.9)
    x = torch.randn(3, 4, requires_grad=inputs_need_grad)

    def step() -> None:
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
        after()

    return {
        "model": model,
        "inputs": (x,),
        "loss": lambda out: out.square().mean(),
        "optimizer": optimizer,
        "step": step,
    }


def between_steps() -> dict[str, Any]:
    model = Offloaded()
    return setup(model, after=model.put_away)


def during_forward() -> dict[str, Any]:
    model = FreedInForward()
    return setup(model, after=model.put_away, inputs_need_grad=True)


def buffer() -> dict[str, Any]:
    return setup(FreedBuffer())


def held_by_the_optimizer() -> dict[str, Any]:
    return setup(nn.Linear(4, 2), freed(nn.Parameter(torch.ones(5))))


def gradient() -> dict[str, Any]:
    model = nn.Linear(4, 2)
    return setup(model, after=lambda: [free(p.grad) for p in model.parameters() if p.grad is not None] and None)


BUILDS = [between_steps, during_forward, buffer, held_by_the_optimizer, gradient]


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
def test_memory_freed_between_uses_is_clean(build: Callable[[], dict[str, Any]]) -> None:
    report = gradlint.check(build, numeric=True)
    assert report.clean, report.findings or report.errors


def test_the_memory_is_freed_again_after_a_check() -> None:
    parts = between_steps()
    gradlint.check(parts)
    weight = parts["model"].big.weight
    assert not weight.untyped_storage().nbytes()


def test_memory_that_a_step_frees_is_restored_after_a_check() -> None:
    parts = between_steps()
    parts["model"](*parts["inputs"])
    weight = parts["model"].big.weight
    before = weight.detach().clone()
    gradlint.check(parts)
    assert torch.equal(weight, before)


def fake() -> Tensor:
    with FakeTensorMode():
        return torch.ones(2)


READABLE: dict[str, tuple[Callable[[], Tensor], bool]] = {
    "plain": (lambda: torch.ones(2), True),
    "empty": (lambda: torch.ones(0), True),
    "view": (lambda: torch.ones(3, 4).t()[1:], True),
    "expanded": (lambda: torch.ones(1).expand(5), True),
    "sparse": (lambda: torch.eye(2).to_sparse(), True),
    "meta": (lambda: torch.ones(2, device="meta"), False),
    "fake": (fake, False),
    "lazy": (lambda: nn.LazyLinear(2).weight, False),
    "freed": (lambda: freed(torch.ones(2)), False),
    "partly freed": (lambda: _cut(torch.ones(4)), False),
}


def _cut(tensor: Tensor) -> Tensor:
    tensor.untyped_storage().resize_(4)
    return tensor


@pytest.mark.parametrize("name", READABLE)
def test_is_readable(name: str) -> None:
    make, expected = READABLE[name]
    assert is_readable(make()) is expected


def test_values_in_freed_memory_are_never_the_same() -> None:
    tensor = freed(torch.ones(2))
    assert not same_values(tensor, tensor)
