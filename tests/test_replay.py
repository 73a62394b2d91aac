"""A recorded graph, executed node by node from the same tensors and seed, gives every recorded value again."""

from __future__ import annotations

import pytest
import replay
import torch
from torch import nn
from torch.nn import functional as F

AWKWARD = replay.awkward()
FAST = {name for number, name in enumerate(sorted(AWKWARD)) if number % 6 == 0}
TORCH = tuple(map(int, torch.__version__.split(".")[:2]))


def outcome(name: str) -> str:
    """The result for an awkward model, but for the part that explains it."""
    return replay.of_setup(AWKWARD[name]).partition(":")[0]


@pytest.mark.parametrize("name", sorted(FAST))
def test_awkward_recording_is_executed(name):
    assert outcome(name) in (replay.SAME, replay.EXPLAINED)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(AWKWARD.keys() - FAST))
def test_every_awkward_recording_is_executed(name):
    if name.endswith("nested_tensors") and TORCH < (2, 5):
        pytest.skip("needs torch 2.5")
    assert outcome(name) in (replay.SAME, replay.EXPLAINED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bert", "gpt2", "llama", "vit", "t5", "mamba", "clip"])
def test_stock_recording_is_executed(name):
    pytest.importorskip("transformers")
    assert replay.of_setup(replay.stock_models()[name]) == replay.SAME


def of_forward(forward, *layers):
    """The result for a model with some layers and a forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

        def forward(self, x):
            return forward(self.layers, x)

    return replay.of_setup(lambda: {"model": Net(), "inputs": (torch.randn(3, 4),), "loss": lambda out: out.sum()})


def slice_with_one_result(layers, x):
    return layers[0](x).split(8, 1)[0]


def written_by_setitem(layers, x):
    h = torch.zeros(3, 4)
    h[:, 0] = layers[0](x)[:, 1]
    return h * 2


def written_through_a_view(layers, x):
    h = layers[0](x) * 1
    h.view(-1)[3:].mul_(2)
    return h + 1


def gradient_of_an_input(layers, x):
    x = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layers[0](x).tanh().sum(), x, create_graph=True)
    return slope


def random_numbers(layers, x):
    return F.dropout(layers[0](x), 0.5, True) + torch.randn(3, 4)


def nested_results(layers, x):
    out, (hidden, cell) = layers[1](x[None])
    return out[0] + hidden[0] * cell[0]


def reshaped_by_method_and_function(layers, x):
    return torch.reshape(layers[0](x).reshape(2, 6), (3, 4)).transpose(0, 1)


def method_and_function_with_other_arguments(layers, x):
    h = layers[0](x)
    windows = F.unfold(h[None, None], (2, 2)).sum() + h.unfold(1, 2, 2).sum(-1).mean()
    return torch.where(h > 0, h, windows) + h.where(h > 0.5, windows)


@pytest.mark.parametrize(
    "forward",
    [
        method_and_function_with_other_arguments,
        slice_with_one_result,
        written_by_setitem,
        written_through_a_view,
        gradient_of_an_input,
        random_numbers,
        nested_results,
        reshaped_by_method_and_function,
    ],
)
def test_graph_is_executable(forward):
    assert of_forward(forward, nn.Linear(4, 4), nn.LSTM(4, 4, batch_first=True)) == replay.SAME


def test_a_part_from_outside_is_named():
    script = torch.jit.trace(nn.Linear(4, 4), torch.zeros(3, 4))
    assert of_forward(lambda layers, x: layers[0](x), script).startswith("not executable: scripted")


def test_a_wrong_recording_is_found(monkeypatch):
    """What is recorded as another op gives other values."""
    run = replay._run

    def other(node, *others):
        result = run(node, *others)
        return result * 2 if node.meta["op"].name == "tanh" else result

    monkeypatch.setattr(replay, "_run", other)
    assert of_forward(lambda layers, x: layers[0](x).tanh(), nn.Linear(4, 4)) == "tanh gives other values"
