"""Who is to blame: a library that cuts off parts of itself, and a user who calls a library that cuts."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from torch import nn

import gradlint

LIBRARY = """
import torch
from torch import nn


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.indexer = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.ones(4))
        self.table.requires_grad = False

    def forward(self, x):
        with torch.no_grad():
            gate = self.indexer(x).sigmoid()
        return self.body(x) * gate + self.table

    def encode(self, x):
        with torch.no_grad():
            return self.body(x)

    def freeze(self):
        self.body.requires_grad_(False)


def load(model, weights):
    with torch.no_grad():
        for name, weight in weights.items():
            setattr(model, name, nn.Parameter(weight))
    return model
"""


@pytest.fixture
def library(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    (folder / "somelib_for_ownership.py").write_text(LIBRARY)
    monkeypatch.syspath_prepend(str(folder))
    yield importlib.import_module("somelib_for_ownership")
    sys.modules.pop("somelib_for_ownership")


class Inner(nn.Module):
    def __init__(self, encoder, method):
        super().__init__()
        self.encoder = encoder
        self.method = method

    def forward(self, x):
        return getattr(self.encoder, self.method)(x)


class Net(nn.Module):
    def __init__(self, encoder, method="__call__"):
        super().__init__()
        self.inner = Inner(encoder, method)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.inner(x))


def setup(net):
    return {"model": net, "inputs": (torch.randn(3, 4),), "optimizer": torch.optim.SGD(net.parameters(), lr=0.1)}


def found(build):
    report = gradlint.check(build, show_info=True)
    assert not report.errors, report.errors
    return {(str(f.severity), f.code): set(f.parameters) for f in report.findings}


def test_a_library_that_cuts_itself_off_weighs_info_however_deep_it_is_held(library):
    seen = found(lambda: setup(Net(library.Encoder())))
    indexer = {"inner.encoder.indexer.weight", "inner.encoder.indexer.bias"}
    assert seen == {("info", "GL402"): indexer, ("info", "GL301"): {"inner.encoder.table"}}


def test_a_users_layer_inside_a_librarys_module_is_the_users(library):
    def build():
        encoder = library.Encoder()
        encoder.indexer = nn.Linear(4, 4)
        return setup(Net(encoder))

    assert ("error", "GL402") in found(build)


def test_calling_a_method_of_a_library_that_cuts_is_the_users_mistake(library):
    seen = found(lambda: setup(Net(library.Encoder(), "encode")))
    assert seen["error", "GL402"] == {"inner.encoder.body.weight", "inner.encoder.body.bias"}


def test_a_librarys_freezing_that_the_user_asked_for_is_the_users(library):
    def build():
        encoder = library.Encoder()
        encoder.freeze()
        return setup(Net(encoder))

    assert ("warning", "GL301") in found(build)


def test_a_library_that_puts_loaded_weights_in_place_without_grad_mode_freezes_nothing_and_means_to(library):
    def build():
        layer = library.load(nn.Linear(4, 4), {"weight": torch.randn(4, 4), "bias": torch.zeros(4)})
        return setup(nn.Sequential(layer, nn.Linear(4, 2)))

    assert found(build) == {}
