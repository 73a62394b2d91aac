"""`gradlint summary`: the module tree with states, repeated blocks folded, totals, the table of parameters, JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cases import each
from snippets import Run, folder, run, write
from test_hostile_text import problems

from gradlint.findings import (
    Finding,
    GroupState,
    ModuleState,
    OptimizerState,
    Overview,
    ParameterState,
    Report,
    Severity,
)
from gradlint.location import Location
from gradlint.report.overview import Wanted, document, render
from gradlint.report.tree import Tree
from gradlint.report.view import View, cells

__all__ = ["folder", "run"]

HEAD = "import torch\nimport torch.nn.functional as F\nfrom torch import nn\n"
STACK = f"""{HEAD}
class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Dropout(0.1))
    def forward(self, x):
        return x + self.mlp(self.norm(x))

class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.ModuleList(Block() for _ in range(6))
    def forward(self, x):
        for block in self.layer:
            x = block(x)
        return x

class Stack(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.encoder = Encoder()
        self.scale = nn.Parameter(torch.ones(1))
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight
    def forward(self, x):
        return self.head(self.encoder(self.embed(x)) * self.scale)

def build():
    model = Stack()
    for block in model.encoder.layer[:4]:
        block.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-5)
    return {{"model": model, "optimizer": optimizer, "inputs": (torch.arange(10).view(2, 5),)}}
"""
STACK_SHOWN = """\
stack.py:build: 26 tensors, 609 parameters: 10 train, 16 frozen, 0 without
  gradient; AdamW holds 10
  inputs: int64[2, 5] (given)
  loss: none given: gradient is followed from the output

module                      tensors  params  trainable  state
(Stack)                          26     609      42.2%  mixed: 10 train, 16
                                                        frozen
  scale                           1       1       100%  trains, AdamW lr 2e-05
  embed Embedding                 1      80       100%  trains, AdamW lr 2e-05
  encoder.layer ModuleList       24     528      33.3%  mixed: 8 train, 16
                                                        frozen
    0–3 Block                    16     352         0%  frozen; dropout train
    4–5 Block                     8     176       100%  trains, AdamW lr 2e-05;
                                                        dropout train
  head Linear                                           tied to embed.weight

not shown: 12 modules without parameters (--expand '*' shows all)
AdamW: lr 2e-05, weight decay 0.01, 10 tensors
trainable params: 257 || all params: 609 || trainable%: 42.2003
"""
GAN = f"""{HEAD}
def build():
    G = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    D = nn.Sequential(nn.Linear(6, 8), nn.LeakyReLU(), nn.Dropout(0.1), nn.Linear(8, 1))
    g = torch.optim.Adam(G.parameters(), lr=2e-4)
    d = torch.optim.Adam(D.parameters(), lr=1e-4)
    def step():
        z, real = torch.randn(4, 4), torch.randn(4, 6)
        d.zero_grad()
        (F.softplus(-D(real)).mean() + F.softplus(D(G(z).detach())).mean()).backward()
        d.step()
        g.zero_grad()
        F.softplus(-D(G(z))).mean().backward()
        g.step()
    return {{"model": {{"G": G, "D": D}}, "optimizer": {{"g": g, "d": d}}, "step": step}}
"""
GAN_SHOWN = """\
module           tensors  params  trainable  state
G Sequential           6     110       100%  trains, Adam 'g' lr 0.0002
  0 Linear             2      40       100%  trains, Adam 'g' lr 0.0002
  1 BatchNorm1d        2      16       100%  trains, Adam 'g' lr 0.0002; norm
                                             train
  3 Linear             2      54       100%  trains, Adam 'g' lr 0.0002
D Sequential           4      65       100%  trains, Adam 'd' lr 0.0001; dropout
                                             train
  0 Linear             2      56       100%  trains, Adam 'd' lr 0.0001
  3 Linear             2       9       100%  trains, Adam 'd' lr 0.0001

not shown: 3 modules without parameters (--expand '*' shows all)
Adam 'g': lr 0.0002, 6 tensors
Adam 'd': lr 0.0001, 4 tensors
trainable params: 175 || all params: 175 || trainable%: 100.0000
"""


def test_of_a_stack(run: Run, folder: Path) -> None:
    write(folder / "stack.py", STACK)
    done = run("summary", "stack.py:build")
    assert (done.code, done.out, done.err) == (0, STACK_SHOWN, "")


def test_of_two_networks(run: Run, folder: Path) -> None:
    write(folder / "gan.py", GAN)
    assert run("summary", "gan.py:build").out.endswith(GAN_SHOWN)


def test_of_parameters(run: Run, folder: Path) -> None:
    write(folder / "stack.py", STACK)
    out = run("summary", "stack.py:build", "--parameters").out
    rows = [line.split(maxsplit=3) for line in out.splitlines()]
    assert ["encoder.layer.0.mlp.0.bias", "8", "False", "frozen"] in rows
    assert ["encoder.layer.4.mlp.0.weight", "8x8", "True", "trains, AdamW lr 2e-05"] in rows
    assert ["embed.weight", "10x8", "True", "trains, AdamW lr 2e-05; also"] in rows


def test_as_json(run: Run, folder: Path) -> None:
    write(folder / "stack.py", STACK)
    [target] = json.loads(run("summary", "stack.py:build", "--output-format", "json").out)["targets"]
    modules = {module["name"]: module for module in target["modules"]}
    assert target["totals"]["states"] == {"trains": 10, "frozen": 16}
    assert modules["encoder.layer.0"]["totals"]["trainable"] == 0
    assert modules["encoder"]["totals"]["modes"]["dropout"] == {"train": 6, "eval": 0}
    assert modules["head"]["tied"] == ["embed.weight"]
    assert target["modules"][modules["encoder.layer"]["parent"]]["name"] == "encoder"
    assert {p["name"]: p["groups"] for p in target["parameters"]}["scale"] == [[0, 0]]
    assert target["optimizers"][0]["groups"][0]["lr"] == 2e-05


@each(
    "arguments, labels",
    [
        (["--depth", "0"], ["(Stack)"]),
        (["--depth", "1"], ["(Stack)", "scale", "embed", "encoder.layer", "head"]),
        (["--expand", "encoder.layer.1", "--depth", "1"],
         ["(Stack)", "scale", "embed", "encoder.layer", "0", "1", "norm", "mlp", "0", "1", "2", "2–3", "4–5", "head"]),
    ],
)  # fmt: skip
def test_what_is_shown(run: Run, folder: Path, arguments: list[str], labels: list[str]) -> None:
    write(folder / "stack.py", STACK)
    lines = run("summary", "stack.py:build", *arguments).out.split("\n\n")[1].splitlines()[1:]
    rows = [line for line in lines if len(line) - len(line.lstrip()) < 20]  # the others go on with a state
    assert [line.split()[0] for line in rows] == labels


def test_glob_that_matches_no_module(run: Run, folder: Path) -> None:
    write(folder / "stack.py", STACK)
    done = run("summary", "stack.py:build", "--expand", "encodr")
    assert (done.code, done.out) == (2, "") and "did you mean encoder?" in done.err


def test_finding_stands_beside_the_modules_it_is_about(run: Run, folder: Path) -> None:
    cut = STACK.replace("self.encoder(self.embed(x))", "self.encoder(self.embed(x)).detach()")
    write(folder / "stack.py", cut)
    out = run("summary", "stack.py:build").out
    line = next(n for n, text in enumerate(cut.splitlines(), 1) if ".detach()" in text)
    row, rest = " ".join(out.partition("    4–5")[2].split()).split(" head ", 1)
    assert row.endswith(f"no gradient, AdamW lr 2e-05; dropout train; GL401 at stack.py:{line}")
    assert "GL401 at" not in rest


def test_target_that_cannot_be_built(run: Run, folder: Path) -> None:
    write(folder / "broken.py", "def build():\n    raise ValueError('no data')\n")
    done = run("summary", "broken.py:build", "--output-format", "json")
    assert done.code == 2 and "no data" in done.err
    shown = json.loads(done.out)
    assert (shown["targets"], shown["errors"][0]["target"]) == ([], "broken.py:build")


def test_of_a_script(run: Run, folder: Path) -> None:
    script = f"""{HEAD}
import sys
model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
model[0].requires_grad_(False)
optimizer = torch.optim.Adam(model[1].parameters(), lr=float(sys.argv[2]))
while True:
    optimizer.zero_grad()
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
"""
    write(folder / "train.py", script)
    done = run("summary", "--depth", "1", "train.py", "--depth", "0.5")
    assert done.code == 0, done.err
    rows = [line.split(maxsplit=5) for line in done.out.splitlines()]
    assert ["0", "Linear", "2", "40", "0%", "frozen"] in rows
    assert ["1", "Linear", "2", "18", "100%", "trains, Adam lr 0.5"] in rows


# -- without a recording ----------------------------------------------------------------------------------------------


def parameter(name: str, **changes: Any) -> ParameterState:
    """A parameter of 16 elements that trains."""
    state = ParameterState(name, (name,), (4, 4), 16, True, "trains", ((0, 0),), "float32", "cpu")
    return replace(state, **changes)


def flat(parameters: Sequence[ParameterState], kind: str = "Linear") -> Overview:
    """A model with a module for each parameter."""
    children = (ModuleState(p.name.rpartition(".")[0], 0, kind, 1, True, "", (i,)) for i, p in enumerate(parameters))
    optimizer = OptimizerState("SGD", (GroupState(0.1, 0.0, False, len(parameters)),))
    return Overview("m.py:build", (ModuleState("", -1, "Net", 0, True), *children), tuple(parameters), (optimizer,))


def labels(overview: Overview) -> list[str]:
    return [row.label for row in Tree(overview).rows]


@each(
    "different",
    [
        {"outcome": "frozen"}, {"groups": ()}, {"dtype": "bfloat16"}, {"device": "cuda:0"}, {"shape": (16,)},
        {"requires_grad": False},
    ],
)  # fmt: skip
def test_modules_that_differ_are_not_folded(different: dict[str, Any]) -> None:
    states = [parameter(f"b.{n}.weight") for n in range(5)]
    assert labels(flat(states)) == ["(Net)", "b.0–4"]
    states[2] = parameter("b.2.weight", **different)
    assert labels(flat(states)) == ["(Net)", "b.0–1", "b.2", "b.3–4"]


def test_only_numbers_in_a_row_are_folded() -> None:
    names = ["0", "1", "3", "04", "block5", "block6", "head", "7"]
    assert labels(flat([parameter(f"{n}.weight") for n in names])) == [
        "(Net)", "0–1", "3", "04", "block5–6", "head", "7"
    ]  # fmt: skip


def test_groups_that_are_alike_are_folded() -> None:
    states = [parameter(f"{n}.weight", groups=((0, n),)) for n in range(4)]
    groups = tuple(GroupState(0.1 if n < 3 else 0.2, 0.0, False, 1) for n in range(4))
    overview = replace(flat(states), optimizers=(OptimizerState("SGD", groups),))
    assert labels(overview) == ["(Net)", "0–2", "3"]


def test_what_differs_from_the_rest_is_named() -> None:
    states = [parameter("a.weight"), parameter("b.weight", dtype="bfloat16"), parameter("c.weight", device="cuda:0")]
    text = render(Report(overviews=[flat(states)]), View(width=120), Wanted())
    assert [line.partition("; ")[2] for line in text.splitlines()[2:5]] == ["", "bfloat16", "cuda:0"]


@each("width, parameters", [(width, flag) for width in (20, 40, 59, 60, 80, 200) for flag in (False, True)])
def test_names_never_break(width: int, parameters: bool) -> None:
    name = "a_long_name_of_a_module_" * 4
    text = render(
        Report(overviews=[flat([parameter(f"{name}.weight"), parameter("b.weight")])]),
        View(width=width), Wanted(parameters=parameters),
    )  # fmt: skip
    assert name in text
    assert all(cells(line) <= width for line in text.splitlines() if name not in line)


def test_encoding_without_a_dash() -> None:
    overview = flat([parameter(f"{n}.weight") for n in range(3)])
    assert "0-2" in render(Report(overviews=[overview]), View(encoding="ascii"), Wanted())


def test_color_only_where_it_is_wanted() -> None:
    report = Report(overviews=[flat([parameter("a.weight", outcome="no gradient")])])
    assert "\x1b" not in render(report, View(), Wanted())
    assert "\x1b[1;33mno gradient" in render(report, View(color=True), Wanted())


@pytest.mark.parametrize(
    "text", ["\x1b[2J", "\n::error::x", "x ##[error]", "\u202e", "\udce9", "[red]", "x; y"], ids=ascii
)
def test_hostile_names(text: str) -> None:
    overview = flat([parameter(f"{text}.{n}.weight") for n in range(3)], kind=text)
    overview = replace(overview, target=text, optimizers=(replace(overview.optimizers[0], label=text),))
    place = Location(f"{text}.py", 3, 1)
    finding = Finding(text, "GL401", "x", Severity.ERROR, text, place, (f"{text}.0.weight",))
    report = Report(overviews=[overview], findings=[finding])
    for width in (40, 80):
        for color in (False, True):
            for wanted in (Wanted(expand=("*",)), Wanted(parameters=True)):
                shown = render(report, View(width=width, color=color), wanted)
                assert not problems(shown, color=color)
    json.dumps(document(report, Path()), ensure_ascii=True)


@pytest.mark.slow
def test_many_modules() -> None:
    """A tree of 50,000 modules, of which none can be folded, has a row for each."""
    states = [parameter(f"b{n}x.weight") for n in range(50_000)]
    text = render(Report(overviews=[flat(states)]), View(), Wanted())
    assert text.count("\n") > 50_000
    assert len(Tree(flat([parameter(f"b.{n}.weight") for n in range(5000)])).rows) == 2


def test_deep_tree() -> None:
    depth = 3000
    modules = [ModuleState("", -1, "Net", 0, True)]
    modules += [ModuleState("a" + ".a" * n, n, "Box", 1, True, "", (n,)) for n in range(depth)]
    parameters = tuple(parameter(f"{m.name}.w") for m in modules[1:])
    overview = Overview("m", tuple(modules), parameters, (OptimizerState("SGD", (GroupState(0.1, 0, False, 1),)),))
    assert len(Tree(overview, expand=("*",)).rows) > depth


@each("arguments, words", [([], "name a target"), (["m.py:a", "m.py:b"], "m.py:b is one too many")])
def test_wrong_arguments(run: Run, arguments: list[str], words: str) -> None:
    done = run("summary", *arguments)
    assert done.code == 2 and words in done.err


@pytest.mark.slow
def test_of_a_library_model() -> None:
    """Its blocks are folded, and what is frozen is named as such."""
    pytest.importorskip("transformers")
    from gradlint.engine.check import check_target
    from gradlint.engine.options import Options

    target = f"{Path(__file__).resolve().parent.parent / 'fixtures/real/text.py'}:good_bert_frozen_encoder"
    report = check_target(target, [], Options(overview=True))
    rows = {row.label: row.totals.outcomes for row in Tree(report.overviews[0]).rows}
    assert rows["encoder.layer.0–1"] == {"frozen": 32}
    assert rows["classifier"] == {"trains": 2}
