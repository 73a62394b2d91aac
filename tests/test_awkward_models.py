"""Awkward models: what gradlint says of each against what a real backward on a fresh copy says."""

from __future__ import annotations

import ast
import copy
import re
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import proof
import pytest
import table
import torch
from table import Builder
from torch import nn

import gradlint
from gradlint.engine.check import _judge, record_target
from gradlint.engine.options import Options
from gradlint.experiments.settle import analyse
from gradlint.findings import Report
from gradlint.flow.cut import CutKind
from gradlint.flow.flow import Flow
from gradlint.recorder.hooks.eager import force_eager, prepare_to_force_eager
from gradlint.system.undo import Undo

FOLDER = Path(__file__).parent / "awkward"


TORCH = tuple(map(int, torch.__version__.split(".")[:2]))
NEEDS = {"case_nested_tensors": (2, 5)}
"""The version of torch that a case needs to run at all."""


def built(case: Builder) -> proof.Parts:
    """What a case builds, in one shape."""
    return proof.parts(getattr(table.load(case.path), case.name)())


def truth(case: Builder) -> tuple[set[str], set[str]]:
    """The parameters that a real backward gives a gradient, and those whose gradient is zero everywhere."""
    torch.manual_seed(0)
    with Undo() as undo, warnings.catch_warnings():
        prepare_to_force_eager(undo)
        here = built(case)
        torch.manual_seed(0)
        force_eager(undo)
        warnings.simplefilter("ignore")
        out = here.model(**here.inputs) if isinstance(here.inputs, dict) else here.model(*here.inputs)
        loss = here.loss(out)
        if loss.requires_grad:
            loss.backward()
    names = {n.removeprefix("module.").replace("_orig_mod.", ""): p for n, p in here.model.named_parameters()}
    given = {name: p.grad for name, p in names.items() if p.grad is not None}
    return set(given), {name for name, g in given.items() if not (g.to_dense() if g.is_sparse else g).any()}


def marks(case: Builder) -> Iterator[tuple[str, int]]:
    """The cuts that no rule reports yet: ``# cut: kind`` on the lines that are to blame."""
    source = case.path.read_text(encoding="utf-8")
    names = table.definitions(ast.parse(source))
    spans = [range(table.first_line(n), (n.end_lineno or 0) + 1) for n in table.closure(case.name, names)]
    for number, line in enumerate(source.splitlines(), 1):
        mark = re.search(r"# cut: (\w+)$", line)
        if mark and any(number in span for span in spans):
            yield mark[1], number


def record(case: Builder) -> tuple[Any, Flow, Report]:
    """The trace, the flow and the findings of all rules."""
    report = Report()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with record_target(case.target, Options()) as recorded:
            trace = recorded.trace
            flow = analyse(trace, recorded.replay)
            _judge(report, trace, flow, table.rules(), Options())
    return trace, flow, report


def disagreements(case: Builder) -> Iterator[str]:
    """Where gradlint is wrong about a case."""
    given, zero = truth(case)
    trace, flow, report = record(case)
    names = [p.fqn for p in trace.parameters]
    reached = {names[i] for i in trace.reached | trace.reached_zero if trace.parameters[i].in_tree}
    if reached != given:
        yield f"reached: only gradlint {sorted(reached - given)}, only backward {sorted(given - reached)}"
    if not {names[i] for i in trace.reached_zero} <= zero:
        yield f"said to be zero and is not: {sorted({names[i] for i in trace.reached_zero} - zero)}"
    if flow.undecided:
        yield f"undecided: {[names[i] for i in flow.undecided]} {flow.why_undecided}"
    for index in flow.starved:
        if not any(trace.parameters[index] in cut.starved for cut in flow.cuts):
            yield f"starved without a cut: {names[index]}"
    marked = set(marks(case))
    cuts = {
        (c.kind.name.lower(), c.location.line if c.location else 0)
        for c in flow.cuts
        if c.kind in (CutKind.FUNCTION, CutKind.CHECKPOINT)
    }
    if cuts != marked:
        yield f"cuts: {sorted(cuts)} instead of {sorted(marked)}"
    yield from table.differences(case, report, names)


FILES = sorted(FOLDER.glob("*.py"))


def is_sampled(case: Builder) -> bool:
    """Return True for one case in three, chosen by its name."""
    return zlib.crc32(case.id.encode()) % 3 == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_awkward_models(path: Path, subtests: pytest.Subtests) -> None:
    judge([case for case in table.builders(path, "case_") if is_sampled(case)], subtests)


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_more_awkward_models(path: Path, subtests: pytest.Subtests) -> None:
    judge([case for case in table.builders(path, "case_") if not is_sampled(case)], subtests)


def judge(cases: list[Builder], subtests: pytest.Subtests) -> None:
    """Fail where gradlint is wrong about any of some cases."""
    for case in cases:
        if NEEDS.get(case.name, TORCH) > TORCH:
            continue
        with subtests.test(msg=case.name), torch.set_grad_enabled(True):
            wrong = list(disagreements(case))
            assert not wrong, "\n".join([*wrong, table.names_of(case.id, record(case)[2])])


LIBRARY = """
import torch

def features(layer, x):
    with torch.no_grad():
        return layer(x)

@torch.no_grad()
def decorated(layer, x):
    return layer(x)
"""

USER = """
import torch
from torch import nn
import {name}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head({name}.{function}(self.a, x) + self.b(x))  # blamed

def build():
    model = Net()
    return {{"model": model, "inputs": (torch.randn(2, 4),), "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}}
"""


@pytest.mark.parametrize("function", ["features", "decorated"])
def test_a_cut_in_a_library_is_blamed_on_the_call(function, tmp_path, monkeypatch):
    name = f"gradlint_test_library_{function}"
    folder = tmp_path / "lib" / "site-packages"
    folder.mkdir(parents=True)
    (folder / f"{name}.py").write_text(LIBRARY)
    user = tmp_path / "project" / "model.py"
    user.parent.mkdir()
    user.write_text(USER.format(name=name, function=function))
    monkeypatch.syspath_prepend(str(folder))
    report = table.report(f"{user}:build")
    found = [(f.code, f.location.line if f.location else 0, f.parameters) for f in report.findings]
    line = next(n for n, text in enumerate(user.read_text().splitlines(), 1) if "# blamed" in text)
    assert found == [("GL402", line, ("a.weight", "a.bias"))]
    if function == "features":
        assert any(Path(r.location.path).parent == folder for r in report.findings[0].related)


def test_a_warm_up_in_build_makes_no_parameter_a_copy_of_another():
    """An optimizer's kernels take all parameters at once; what was copied from them afterwards is a copy."""

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.randn(3, 4)).sum().backward()
        optimizer.step()
        return {"model": nn.ModuleList([model, copy.deepcopy(model).requires_grad_(False)]), "optimizer": optimizer,
                "step": lambda: None}  # fmt: skip

    twins = {p.fqn: sorted(p.copied_from) for p in gradlint.trace(build).parameters}
    assert list(twins.values()) == [[], [], [], [], [0], [1], [2], [3]]
