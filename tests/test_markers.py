"""The markers `gradlint.constant` and `gradlint.differentiable` do nothing outside of a recording."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlint
from gradlint import markers
from gradlint.markers import constant, differentiable
from gradlint.system.undo import Undo


@pytest.mark.parametrize("marker", [constant, differentiable])
def test_a_marker_returns_the_very_object(marker: Callable[[Any], Any]) -> None:
    for value in (torch.ones(2), [torch.ones(2)], None, 0.5):
        assert marker(value) is value


def test_the_markers_need_no_torch() -> None:
    code = "import gradlint, sys; gradlint.constant(1); gradlint.differentiable(1); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_markers_are_as_before_after_a_recording() -> None:
    before = (constant.__code__, differentiable.__code__)
    seen: list[bool] = []
    with Undo() as undo:
        markers.observe(undo, lambda value, is_constant: seen.append(is_constant))
        constant(1)
        differentiable(1)
    assert seen == [True, False]
    assert (constant.__code__, differentiable.__code__) == before


def marked(x: Tensor) -> Tensor:
    return constant(x) + differentiable(x)


def test_a_function_with_markers_can_be_scripted() -> None:
    scripted = torch.jit.script(marked)
    assert torch.equal(scripted(torch.ones(2)), torch.full((2,), 2.0))


@pytest.mark.slow
def test_a_function_with_markers_can_be_compiled_without_a_graph_break() -> None:
    compiled = torch.compile(marked, backend="eager", fullgraph=True)
    assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 2.0))


def drawn(x: Tensor) -> Tensor:
    return gradlint.differentiable(torch.ones_like(x))


def rounded(x: Tensor) -> Tensor:
    return torch.round(gradlint.differentiable(torch.ones_like(x, requires_grad=True)))


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        (drawn, "but nothing that it is computed from requires grad."),
        (rounded, "but the gradient of round is zero everywhere: no gradient returns to it."),
    ],
)
def test_a_differentiable_value_without_any_parameter_is_an_error(
    shift: Callable[[Tensor], Tensor], message: str
) -> None:
    class Shifted(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + shift(x))

    def build() -> dict[str, Any]:
        model = Shifted(4, 3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loss = lambda out: out.square().mean()  # noqa: E731
        return {"model": model, "inputs": (torch.randn(6, 4),), "optimizer": optimizer, "loss": loss}

    (found,) = gradlint.check(build).findings
    assert (found.code, found.parameters) == ("GL705", ())
    assert found.message == f"this value is marked as differentiable, {message}"
