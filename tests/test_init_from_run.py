"""`gradlint init`: a build() out of a script that runs, with the verdict that the run gave."""

from __future__ import annotations

import argparse
import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from snippets import Run, folder, run, source, write
from test_notebooks import cell, document, lab

from gradlint.runner.literals import data, literal
from gradlint.source.script import parsed_at_import

__all__ = ["folder", "run"]

GUARDED = """
import argparse
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Linear(4, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.body(x).relu())


class Loop:
    def __init__(self, model, loader, rate):
        self.model = model
        self.loader = loader
        self.optimizer = torch.optim.SGD(model.parameters(), lr=rate)

    def train(self, epochs):
        for epoch in range(epochs):
            self.model.train()
            for i, (x, y) in enumerate(self.loader):
                x, y = x.flatten(1), y.long()
                loss = nn.functional.cross_entropy(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                if i % 2 == 0:
                    print("loss", loss.item())
                torch.save(self.model.state_dict(), "last.pt")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--freeze", action="store_true")
    args = parser.parse_args()
    model = Net(args.width)
    if args.freeze:
        for p in model.body.parameters():
            p.requires_grad = False
    Loop(model, [(torch.randn(5, 2, 2), torch.ones(5))] * 4, 0.1).train(2)


if __name__ == "__main__":
    main()
"""

FLAT = """
import torch
from torch import nn

width = 6
micro = 2
model = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
model[0].requires_grad_(False)
optimizer = torch.optim.AdamW(model.parameters())


def batch():
    return torch.rand(2, 3), torch.rand(2, 1)


x, y = batch()
count = 0
while True:
    for _ in range(micro):
        loss = (model(x) - y).pow(2).mean() / micro
        loss.backward()
        x, y = batch()
    optimizer.step()
    optimizer.zero_grad()
    count += 1
    if count > 20:
        break
"""


@pytest.mark.slow
def test_a_script_with_functions_and_arguments(run: Run, folder: Path) -> None:
    write(folder / "train.py", GUARDED)
    made = run("init", "--from-run", "train.py", "--", "--freeze")
    assert made.code == 0, made.err
    assert "wrote train_build.py (1 finding, as run gave): gradlint check train_build.py:build" in made.err
    (folder / "last.pt").unlink()
    checked = run("check", "train_build.py:build", "--output-format", "concise")
    assert (checked.code, "GL301" in checked.out, (folder / "last.pt").exists()) == (1, True, False)
    again = run("init", "--from-run", "train.py")
    assert again.err == "error: train_build.py is there already; name another file with --output\n"


@pytest.mark.slow
def test_a_script_that_trains_at_import(run: Run, folder: Path) -> None:
    write(folder / "flat.py", FLAT)
    made = run("init", "--from-run", "flat.py", "-o", "-")
    assert made.code == 0, made.err
    assert "for _ in range(micro):" in made.out and "import flat" not in made.out and "batch()" not in made.out
    assert [path.name for path in folder.iterdir()] == ["flat.py"]


@pytest.mark.slow
def test_a_notebook_that_trains(run: Run, folder: Path) -> None:
    head, _, rest = FLAT.partition("def batch")
    write(folder / "nb.ipynb", lab(document(cell(f"%matplotlib inline\n{head}"), cell(f"def batch{rest}"))))
    made = run("init", "--from-run", "nb.ipynb")
    assert "wrote nb_build.py (1 finding, as run gave)" in made.err, made.err
    assert "matplotlib" not in (folder / "nb_build.py").read_text()


@pytest.mark.slow
def test_a_script_whose_verdict_is_not_met_leaves_nothing(run: Run, folder: Path) -> None:
    write(folder / "flat.py", FLAT.replace("model[0].requires", "(lambda m: m)(model)[0].requires"))
    made = run("init", "--from-run", "flat.py")
    assert (made.code, [path.name for path in folder.iterdir()]) == (2, ["flat.py"])
    assert "no build() is written: the one made of the script gives another verdict: only run finds GL301" in made.err


SETTINGS: dict[str, tuple[Any, str | None]] = {
    "a namespace": (argparse.Namespace(lr=0.1, names=["a"]), "argparse.Namespace(lr=0.1, names=['a'])"),
    "an object": (object(), None),
    "a part that is none": ([1, object()], None),
    "infinity": (float("inf"), 'float("inf")'),
    "a device": (torch.device("cpu"), 'torch.device("cpu")'),
    "one in a tuple": ((1,), "(1,)"),
}
BATCHES: dict[str, tuple[Any, str | None]] = {
    "images": (torch.zeros(2, 3), "torch.rand(2, 3)"),
    "numbers": (torch.tensor([[-4.0, 9.0]]), "torch.randn(1, 2)"),
    "classes": (torch.tensor([0, 3]), "torch.randint(0, 4, (2,))"),
    "a mask": (torch.tensor([True]), "torch.ones((1,), dtype=torch.bool)"),
    "halves": (torch.zeros(2, dtype=torch.float16), "torch.rand(2, dtype=torch.float16)"),
    "a scalar": (torch.tensor(2.0), "torch.randn(())"),
    "a dict": ({"x": torch.zeros(1), "n": 3}, "{'x': torch.rand(1), 'n': 3}"),
    "with gradient": (torch.zeros(1, requires_grad=True), None),
}


@each("name", SETTINGS)
def test_a_setting_is_written_down(name: str) -> None:
    assert literal(SETTINGS[name][0]) == SETTINGS[name][1]


@each("name", BATCHES)
def test_a_batch_is_written_by_its_shape(name: str) -> None:
    value, expected = BATCHES[name]
    assert data(value) == expected
    if isinstance(value, torch.Tensor) and expected is not None:
        made = eval(expected)
        assert (made.shape, made.dtype) == (value.shape, value.dtype)


PARSES = {
    "import argparse\nargs = argparse.ArgumentParser().parse_args()": 2,
    "def f():\n    return p.parse_args()\nargs = f()": 2,
    "def f():\n    return p.parse_args()": None,
    "if __name__ == '__main__':\n    p.parse_args()": None,
    "import sys\nlr = float(sys.argv[1])": 2,
}


@each("text", PARSES)
def test_what_parses_arguments_when_imported(text: str) -> None:
    assert parsed_at_import(ast.parse(text)) == PARSES[text]


NET = source(
    """
    class Net(nn.Module):
        def __init__(self, width: int, depth, drop=0.1):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

        def forward(self, x):
            for layer in self.layers:
                x = layer(x)
            return x
    """
)


def test_what_a_constructor_needs_becomes_a_parameter(run: Run, folder: Path) -> None:
    write(folder / "net.py", NET)
    made = run("init", "net.py")
    text = (folder / "net_build.py").read_text()
    assert "def build(width: int, depth):\n    model = Net(width=width, depth=depth)\n" in text and "..." not in text
    assert made.err.endswith("gradlint check net_build.py:build --arg width=VALUE --arg depth=VALUE\n")


def test_a_file_that_parses_arguments_is_not_to_be_imported(run: Run, folder: Path) -> None:
    write(folder / "net.py", NET + "\nimport argparse\nargs = argparse.ArgumentParser().parse_args()\n")
    made = run("init", "net.py")
    assert (made.code, [path.name for path in folder.iterdir()]) == (2, ["net.py"])
    assert "gradlint init --from-run net.py -- ARGUMENTS" in made.err


def test_agents_get_a_short_text(run: Run) -> None:
    made = run("init", "--agent")
    assert (made.code, made.err) == (0, "") and len(made.out.split()) < 250
    assert run("init", "--agent", "x.py").code == run("init").code == 2
