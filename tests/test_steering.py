"""A value that only decides which code runs gets one verdict in every spelling."""

from __future__ import annotations

import pytest
import table
import torch

from gradlint.experiments.run_path import RunPath

PROGRAM = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x):
        t, h = self.a(x).sum(), self.b(x) + self.layers[0](x) + self.layers[1](x)
        {lines}
        return h

def build():
    torch.manual_seed(0)
    model = Net()
    return {{"model": model, "inputs": (torch.randn(3, 4),), "loss": lambda out: out.square().sum(),
             "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}}
"""
SPELLINGS = {
    "if": "h = h * 2 if t > 0 else h",
    "bool": "flag = bool(t > 0); h = h * 2 if flag else h",
    "item": "h = h * 2 if t.item() > 0 else h",
    "float": "h = h * 2 if float(t) > 0 and h.shape[0] else h",
    "named, and never flipped": "k = abs(t.item()); h = h * 2 if k < 1e9 else h",
    "under two names": "k = t.item(); flag = k < 1e9; h = h * 2 if flag else h",
    "walrus": "h = h * 2 if (k := t.item()) > 0 and k < 1e9 else h * 3",
    "comprehension": "h = sum(h * part for part in (1, 2) if t.item() < 1e9 * part)",
    "match": "match int(t.item() > 0):\n            case 1: h = h * 2\n            case _: h = h * 3",
    "any": "h = h * 2 if (t > 0).any() else h",
    "a number on the way to a condition": "k = int(100 * t); h = h * 2 if (torch.ones(4) * k).sum() > 0 else h * 3",
    "size": "h = h[:, : int(t.abs()) % 3 + 1]",
    "index": "h = h + self.layers[t.abs().long().item() % 2](x)",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_value_that_only_steers(spelling, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(lines=SPELLINGS[spelling]))
    report = table.report(f"{path}:build")
    (finding,) = report.findings
    assert (finding.code, finding.parameters) == ("GL405", ("a.weight", "a.bias"))
    assert "only to steer control flow" in finding.message


@pytest.mark.parametrize(
    "line",
    [
        "h = h * t.item()",
        "h = h + float(t)",
        "h = h * (1 + int(100 * t))",
        "k = int(100 * t); h = h * (torch.ones(4) * k)",
        "k = t.item(); h = h * k if k < 1e9 else h",
        "h = h * k if (k := t.item()) < 1e9 else h",
        "h = h * (t.item() if h.shape[0] else 1.0)",
        "h = h * t.item() + nn.Parameter(torch.ones(4))",
    ],
)
def test_a_value_that_also_counts(line, tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM.format(lines=line))
    assert [f.code for f in table.report(f"{path}:build").findings] == ["GL403"]


def test_the_path_is_the_same_however_often_the_code_ran():
    def run():  # Python specialises its instructions after some runs
        return torch.ones(2) + float(torch.ones(2).mean())

    path, taken = RunPath(()), set()
    for _ in range(40):
        with path:
            run()
        taken.add(path.taken())
    assert len(taken) == 1
