"""Parameters are called what users call them, whatever shares, wraps, parametrizes or lists them."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from cases import each
from snippets import folder, run, write
from torch import nn
from torch.nn.utils import parametrize, weight_norm
from torch.nn.utils.parametrizations import weight_norm as weight_parametrization
from torch.optim.swa_utils import AveragedModel

import gradlint

__all__ = ["folder", "run"]


def starved(model, *inputs):
    """The names in the findings on a model whose output is detached, all of its parameters in an optimizer."""
    cut = Cut(model)
    report = gradlint.check(
        {
            "model": cut,
            "inputs": inputs,
            "optimizer": torch.optim.SGD(cut.parameters(), lr=0.1),
            "loss": lambda out: out.square().mean(),
        }
    )
    assert not report.errors, report.errors
    [finding] = [f for f in report.findings if f.code == "GL401"]
    return finding


class Cut(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, *inputs):
        return self.net(*inputs).detach() * self.gain


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.embed(ids))


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.ParameterList([nn.Parameter(torch.ones(4)) for _ in range(2)])
        self.named = nn.ParameterDict({"shift": nn.Parameter(torch.zeros(4))})

    def forward(self, x):
        return x * self.rows[0] * self.rows[1] + self.named["shift"]


class Doubling(nn.Module):
    def forward(self, weight):
        return 2 * weight


def parametrized():
    layer = nn.Linear(4, 3, bias=False)
    parametrize.register_parametrization(layer, "weight", Doubling())
    return layer


X, IDS = torch.randn(5, 4), torch.randint(0, 7, (3, 2))
CASES = {
    "plain": (nn.Linear(4, 3), X, {"net.weight", "net.bias"}),
    "tied": (Tied(), IDS, {"net.embed.weight"}),
    "lists": (Listed(), X, {"net.rows.0", "net.rows.1", "net.named.shift"}),
    "weight_norm": (weight_norm(nn.Linear(4, 3)), X, {"net.bias", "net.weight_g", "net.weight_v"}),
    "parametrized weight_norm": (
        weight_parametrization(nn.Linear(4, 3, bias=False)),
        X,
        {"net.parametrizations.weight.original0", "net.parametrizations.weight.original1"},
    ),
    "parametrized": (parametrized(), X, {"net.parametrizations.weight.original"}),
    "lazy": (nn.LazyLinear(3), X, {"net.weight", "net.bias"}),
    "shared": (nn.Sequential(*[nn.Linear(4, 4)] * 2), X, {"net.0.weight", "net.0.bias"}),
    "data parallel": (nn.DataParallel(nn.Linear(4, 3)), X, {"net.weight", "net.bias"}),
    "average": (AveragedModel(nn.Linear(4, 3)), X, {"net.weight", "net.bias"}),
}


@each("case", CASES)
def test_starved_parameters_go_by_their_names(case):
    model, given, names = CASES[case]
    finding = starved(model, given)
    assert set(finding.parameters) == names


def test_starved_parameters_of_a_compiled_model_go_by_their_names():
    finding = starved(torch.compile(nn.Linear(4, 3), backend="eager"), X)
    assert set(finding.parameters) == {"net.weight", "net.bias"}


def test_each_parameter_of_a_subtree_is_counted_once():
    finding = starved(nn.Sequential(*[nn.Linear(4, 4)] * 2), X)
    assert "(2 tensors, 20 parameters)" in finding.message


def test_several_models_lend_their_names():
    nets = {"generator": nn.Linear(4, 4), "critic": nn.Linear(4, 1)}
    report = gradlint.check(
        {
            "model": nets,
            "inputs": {"generator": (X,), "critic": (X,)},
            "optimizer": torch.optim.SGD([p for n in nets.values() for p in n.parameters()], lr=0.1),
            "loss": lambda out: out["generator"].detach().mean() + out["critic"].mean(),
        }
    )
    assert {n for f in report.findings for n in f.parameters} == {"generator.weight", "generator.bias"}


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.norm(self.body(x))


class Beside(nn.Module):
    """A network beside a wrapped one, which is frozen and stays in eval mode."""

    def __init__(self, wrapped):
        super().__init__()
        self.layer, self.part = nn.Linear(4, 4), wrapped.requires_grad_(False).eval()

    def train(self, mode=True):
        super().train(mode)
        self.part.eval()
        return self

    def forward(self, x):
        return self.layer(x) + self.part(x)


def wrapped_parts():
    """Each wrapper of torch around a network, alone and around each other."""
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    return {
        "average": AveragedModel(Normed()),
        "compiled": torch.compile(Normed(), backend="eager"),
        "data parallel": nn.DataParallel(Normed()),
        "checkpointed": checkpoint_wrapper(Normed()),
        "data parallel, compiled": nn.DataParallel(torch.compile(Normed(), backend="eager")),
    }


WRAPPED = wrapped_parts()


def own_names(model, prefix):
    """The names below a prefix, as `named_parameters()` and `named_buffers()` give them."""
    named = [name for name, _ in (*nn.Module.named_parameters(model), *nn.Module.named_buffers(model))]
    return [name for name in named if name.startswith(prefix) and not name.endswith(("n_averaged", "_tracked"))]


@each("wrapper", WRAPPED)
def test_a_contract_names_the_parts_of_a_wrapper_as_the_model_does(wrapper):
    model = Beside(WRAPPED[wrapper])
    names = own_names(model, "part.")
    setup = {"model": model, "inputs": (X,)}
    assert any("module" in name or "_orig_mod" in name for name in names)
    for frozen in (
        names,
        [name.rpartition(".")[0] + ".*" for name in names],
        ["part.*"],
        ["part.body.*", "part.norm.*"],
    ):
        report = gradlint.check(setup, frozen=frozen, select=["GL7"])
        assert (report.errors, report.findings) == ([], []), frozen


@each("wrapper", WRAPPED)
def test_a_contract_about_the_parts_of_a_wrapper_is_held(wrapper):
    model = Beside(WRAPPED[wrapper])
    names = [name for name, _ in nn.Module.named_parameters(model) if name.startswith("part.")]
    report = gradlint.check({"model": model, "inputs": (X,)}, trains=names, select=["GL7"])
    assert {f.code for f in report.findings} == {"GL701"}
    assert {n for f in report.findings for n in f.parameters} == {
        "part.body.weight", "part.body.bias", "part.norm.weight", "part.norm.bias"}  # fmt: skip


@each("wrapper", WRAPPED)
def test_a_wrapper_around_the_whole_model_is_part_of_its_names_or_not(wrapper):
    model = WRAPPED[wrapper].requires_grad_(True).train()
    names = [name for name, _ in nn.Module.named_parameters(model)]
    for trains in (names, ["body.*", "norm.*"]):
        report = gradlint.check({"model": model, "inputs": (X,)}, trains=trains, select=["GL7"])
        assert (report.errors, report.findings) == ([], []), trains


def test_a_name_without_its_wrapper_is_no_name():
    report = gradlint.check({"model": Beside(Normed()), "inputs": (X,)}, frozen=["part.module.*"], select=["GL7"])
    assert [f.code for f in report.findings] == ["GL703"]


def test_names_in_a_dict_of_models_have_the_key_before_the_wrapper():
    model = {"net": AveragedModel(Normed())}
    report = gradlint.check({"model": model, "inputs": {"net": (X,)}}, trains=["net.module.body.*"], select=["GL7"])
    assert (report.errors, report.findings) == ([], [])


BESIDE = """
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

class Ema(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.ema = AveragedModel(self.layer)

    def forward(self, x):
        return self.layer(x) + self.ema(x).detach()

def build():
    model = Ema()
    return {"model": model, "inputs": (torch.ones(2, 4),), "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
"""


@pytest.fixture
def beside(run, folder):
    write(folder / "m.py", BESIDE)
    return folder


@each("name", ["ema.module.weight", "ema.weight"])
def test_why_knows_both_names(run, beside, name):
    assert f"{name}" in run("why", "m.py:build", name).out


@each("option", ["ema.module.*", "ema.*", "ema.module.weight,ema.module.bias"])
def test_options_and_settings_know_both_names(run, beside, option):
    write(beside / "gradlint.toml", f"ignore-parameters = {{ALL = {option.split(',')}}}")
    report = run("check", "m.py:build", "--config", "gradlint.toml", "--output-format", "json").out
    assert [f["parameters"] for f in json.loads(report)["findings"]] == []


@each("option", ["ema.module.*", "ema.*"])
def test_options_of_a_contract_know_both_names(run, beside, option):
    report = json.loads(run("check", "m.py:build", "--frozen", option, "--output-format", "json").out)
    assert "GL703" not in {f["code"] for f in report["findings"]}


def test_a_lock_does_not_know_the_wrapper(run, beside):
    run("lock", "m.py:build")
    assert "\nema.weight  4x4" in (beside / "gradlint.lock").read_text()


def test_an_averaged_copy_beside_is_not_the_network():
    def build():
        net = nn.Linear(4, 3)
        average = copy.deepcopy(net)
        return {
            "model": {"net": net, "ema": average},
            "inputs": {"net": (X,)},
            "optimizer": torch.optim.SGD(net.parameters(), lr=0.1),
        }

    assert gradlint.check(build).clean


def test_every_alias_of_a_tied_weight_is_named_where_that_matters():
    def build():
        model = Tied()
        model.head.bias = nn.Parameter(torch.zeros(7))
        model.embed.requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        return {"model": model, "inputs": (IDS,), "optimizer": optimizer}

    [finding] = [f for f in gradlint.check(build).findings if f.code == "GL205"]
    assert finding.parameters == ("embed.weight", "head.weight")
    assert "embed.weight and head.weight are one tensor" in finding.message


def test_the_order_of_events_is_told():
    def build():
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (X,), "optimizer": optimizer}

    first = build.__code__.co_firstlineno
    [finding] = gradlint.check(build).findings
    here = Path(__file__).name
    assert f"frozen at {here}:{first + 3}, after they were added at {here}:{first + 2}" in finding.message
