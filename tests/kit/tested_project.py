"""A small project with models to test, and the plugin at hand: what the tests of the plugin share."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

_INSTALLED = any(entry.value == "gradlint.testing.pytest_plugin" for entry in entry_points(group="pytest11"))
PLUGIN = () if _INSTALLED else ("-p", "gradlint.testing.pytest_plugin")
"""Options that load the plugin where pytest does not find it by itself."""
MODEL = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, norm=False):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh())
        self.head = nn.Linear(8, 2)
        self.aux = nn.Linear(8, 3)

    def forward(self, x):
        h = self.encoder(x)
        return {"logits": self.head(h), "aux": [self.aux(h.detach())], "label": h.argmax(-1)}


def setup(model, rate=0.1):
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=rate)
    return {
        "model": model,
        "inputs": (torch.randn(4, 4),),
        "optimizer": optimizer,
        "loss": lambda out: out["logits"].pow(2).mean() + out["aux"][0].sum(),
    }


def build(norm=False):
    return setup(Net(norm))


def build_frozen(norm=False):
    model = Net(norm)
    model.encoder.requires_grad_(False)  # the freeze
    return setup(model)


def build_declared():
    return {**build_frozen(), "frozen": ["encoder.*"], "trains": ["*"]}


def build_raises():
    raise ValueError("no data")
"""


@pytest.fixture
def project(inner: pytest.Pytester) -> pytest.Pytester:
    """A folder with model.py and the plugin at hand."""
    inner.makepyfile(model=MODEL)
    return inner


def run_test(project: pytest.Pytester, *bodies: str) -> pytest.RunResult:
    """Run a test for each body that is given; `gradlint` and the builders are at hand in it."""
    tests = "".join(f"\n\ndef test_it_{n}(gradlint):\n    {body}\n" for n, body in enumerate(bodies))
    project.makepyfile(test_it=f"from functools import partial\nfrom model import *\n{tests}")
    return inside(project, "-p", "no:cacheprovider")


def inside(project: pytest.Pytester, *args: str) -> pytest.RunResult:
    """Run pytest in this process, in the order of the files, without a plugin that imports much at each end."""
    return project.runpytest_inprocess(*PLUGIN, "-p", "no:randomly", "-p", "no:hypothesispytest", *args)


def words(output: str) -> str:
    """The output as one line, without the marks of a traceback."""
    return " ".join(" ".join(line.removeprefix("E ").split()) for line in output.splitlines())
