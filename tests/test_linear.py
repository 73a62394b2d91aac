"""The work of rules and messages grows with the model, not with its square: counted in calls, not in seconds."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import gradlint
from gradlint import wording
from gradlint.flow.flow import Flow
from gradlint.flow.siblings import SiblingsThatRan
from gradlint.traces.dataflow import indices
from gradlint.traces.trace import Trace, prefixes_of


@pytest.mark.parametrize("positions", [[], [0], [3, 700], list(range(200)), list(range(1, 999, 7))])
def test_the_bits_of_a_mask_are_found_lowest_first(positions: list[int]) -> None:
    assert indices(sum(1 << position for position in positions)) == positions


def test_prefixes_are_those_of_every_module_around() -> None:
    assert prefixes_of(["a.b.w", "a.c.w", "w"]) == {"a", "a.b", "a.c"}


def test_names_that_no_pattern_could_fold_are_compared_with_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[str] = []
    monkeypatch.setattr(wording, "fnmatchcase", lambda name, shape: compared.append(name))
    everything: Any = [SimpleNamespace(fqn=f"part{n}.weight", numel=1) for n in range(50)]
    wording.summarize_names(everything[:40], everything)
    assert not compared


class DroppedTerms(nn.Module):
    """Computes a loss for each head, and returns that of the last one."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 1) for _ in range(count))
        self.runs = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        losses = [head(x).square().mean() for head in self.heads]
        return losses[-1]


def test_many_dropped_results_take_no_more_runs_than_some() -> None:
    runs = []
    for count in (8, 16):
        model = DroppedTerms(count)
        report = gradlint.check({"model": model, "inputs": (torch.ones(3, 2),)}, select=["GL405"])
        assert len({name for f in report.findings for name in f.parameters}) == 2 * (count - 1)
        runs.append(model.runs)
    assert runs[0] == runs[1] > 2


class Heads(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(2, 2) for _ in range(count))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.heads[0](x)
        return out


def test_the_siblings_of_unused_modules_are_looked_through_once(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = gradlint.trace({"model": Heads(20), "inputs": (torch.ones(1, 2),)})
    siblings, calls = SiblingsThatRan(Flow(trace)), []
    below = Trace.below
    monkeypatch.setattr(Trace, "below", lambda self, module: calls.append(module) or below(self, module))
    assert [p.fqn for p in trace.parameters if p not in siblings] == ["heads.0.weight", "heads.0.bias"]
    assert len(calls) <= 20
