"""``gradlint run``: what a script's optimizers train besides the modules that it calls."""

from __future__ import annotations

from pathlib import Path

import pytest
from script import codes, mostly_slow, run

pytestmark = pytest.mark.usefixtures("processes")

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F

torch.manual_seed(0)
x, y = torch.randn(6, 4), torch.randint(0, 2, (6,))


def train(loss, *optimizers):
    for _ in range(5):
        for optimizer in optimizers: optimizer.zero_grad()
        loss().backward()
        for optimizer in optimizers: optimizer.step()
"""

SCRIPTS: dict[str, tuple[str, list[tuple[str, list[str]]], int]] = {
    "bare tensors": (
        """
        first, second = torch.randn(4, 8, requires_grad=True), torch.randn(8, 2, requires_grad=True)
        train(lambda: F.cross_entropy(torch.relu(x @ first) @ second, y), torch.optim.SGD([first, second], 0.1))
        """,
        [],
        2,
    ),
    "a bare tensor behind detach()": (
        """
        first, second = torch.randn(4, 8, requires_grad=True), torch.randn(8, 2, requires_grad=True)
        loss = lambda: F.cross_entropy(torch.relu(x @ first).detach() @ second, y)
        train(loss, torch.optim.SGD([first, second], 0.1))
        """,
        [("GL401", ["first"])],
        2,
    ),
    "a tensor in a dict, without history": (
        """
        net = {"weight": torch.randn(4, 2, requires_grad=True), "bias": [torch.zeros(2, requires_grad=True)]}
        loss = lambda: F.cross_entropy(x @ net["weight"] + net["bias"][0].data, y)
        train(loss, torch.optim.SGD([net["weight"], *net["bias"]], 0.1))
        """,
        [("GL403", ["net.bias.0"])],
        2,
    ),
    "a local variable": (
        """
        def main():
            table = nn.Parameter(torch.randn(9, 2))
            shift = nn.Parameter(torch.randn(2))
            rows = torch.tensor([1, 5, 8, 2, 2, 1])
            loss = lambda: F.cross_entropy(table[rows] + shift.detach(), y)
            train(loss, torch.optim.Adagrad([table, shift], 0.1))
        main()
        """,
        [("GL401", ["shift"])],
        2,
    ),
    "a list of parameters that is never called": (
        """
        weights = nn.ParameterList([nn.Parameter(torch.randn(4, 8)), nn.Parameter(torch.randn(8, 2))])
        loss = lambda: F.cross_entropy(torch.relu(x @ weights[0]).detach() @ weights[1], y)
        train(loss, torch.optim.SGD(weights.parameters(), 0.1))
        """,
        [("GL401", ["0"])],
        2,
    ),
    "an attribute beside the layers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer, self.scale = nn.Linear(4, 2), torch.ones(2, requires_grad=True)
            def forward(self, x): return self.layer(x) * self.scale.detach()
        net = Net()
        train(lambda: F.cross_entropy(net(x), y), torch.optim.SGD([*net.parameters(), net.scale], 0.1))
        """,
        [("GL401", ["scale"])],
        3,
    ),
    "an image under a fixed network": (
        """
        net = nn.Linear(4, 2).requires_grad_(False)
        image = torch.randn(6, 4, requires_grad=True)
        train(lambda: F.cross_entropy(net(image), y), torch.optim.Adam([image]))
        """,
        [],
        3,
    ),
    "a temperature of its own optimizer": (
        """
        net, log_alpha = nn.Linear(4, 2), torch.zeros(1, requires_grad=True)
        def loss():
            out = net(x)
            return F.cross_entropy(out * log_alpha.exp().detach(), y) - (log_alpha * out.detach().mean()).sum()
        train(loss, torch.optim.Adam(net.parameters()), torch.optim.Adam([log_alpha]))
        """,
        [],
        3,
    ),
    "master copies of rounded weights": (
        """
        net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16()
        copies = [p.detach().clone().float().requires_grad_(True) for p in net.parameters()]
        optimizer = torch.optim.AdamW(copies, 1e-3)
        for _ in range(5):
            net.zero_grad()
            F.cross_entropy(net(x.bfloat16()).float(), y).backward()
            for p, c in zip(net.parameters(), copies): c.grad = p.grad.float()
            optimizer.step()
            for p, c in zip(net.parameters(), copies): p.data.copy_(c.data)
        """,
        [],
        4,
    ),
    "the model is copied after its optimizer": (
        """
        import copy
        net = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        net = copy.deepcopy(net)
        train(lambda: F.cross_entropy(net(x), y), optimizer)
        """,
        [("GL304", ["weight", "bias"])],
        2,
    ),
}


@pytest.mark.parametrize("name", mostly_slow(SCRIPTS))
def test_what_optimizers_train_is_judged(tmp_path: Path, name: str) -> None:
    script, expected, tensors = SCRIPTS[name]
    _, report = run(tmp_path, script, head=HEAD)
    assert [(f["code"], f["parameters"]) for f in report["findings"]] == expected, codes(report)
    assert report["targets"][0]["parameters"] == tensors
