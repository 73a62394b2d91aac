"""Names propose a contract, in `gradlint init` and `check -v`, and never report anything."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradlint
from gradlint.source.intent import proposed_contract


@pytest.mark.parametrize(
    ("parts", "flags", "expected"),
    [
        (["encoder", "head"], ["freeze_encoder"], (["encoder.*"], ["head.*"])),
        (["text_encoder", "body"], ["train_encoder"], ([], ["text_encoder.*"])),
        (["student", "teacher"], [], (["teacher.*"], ["student.*"])),
        (["ahead", "targets"], ["freeze", "trainer"], ([], [])),
        (["head"], ["freeze_head"], ([], [])),
    ],
    ids=["flag and name", "end of a name", "names", "parts of words", "contradiction"],
)
def test_proposals(parts: list[str], flags: list[str], expected: tuple[list[str], list[str]]) -> None:
    assert proposed_contract(parts, flags) == expected


class Net(nn.Module):
    """A teacher that trains, in spite of its name and of a flag."""

    def __init__(self, freeze_teacher: bool = False) -> None:
        super().__init__()
        self.teacher, self.body = nn.Linear(4, 4), nn.Linear(4, 2)
        self.teacher.requires_grad_(not freeze_teacher)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.teacher(x))


def build() -> dict[str, Any]:
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"model": model, "inputs": (torch.ones(3, 4),), "optimizer": optimizer, "loss": lambda out: out.sum()}


def test_a_check_proposes_and_reports_nothing() -> None:
    report = gradlint.check(build)
    (target,) = report.targets
    assert not report.findings
    assert target.parts == (("teacher", "2 train"), ("body", "2 train"))
    assert target.proposed == (("teacher.*",), ())


def test_nothing_is_proposed_beside_a_contract() -> None:
    (target,) = gradlint.check(build, trains=["*"]).targets
    assert target.proposed == ((), ())
