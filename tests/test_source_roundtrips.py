"""What the source proves of values that leave autograd in a forward, and of iterators that are used up."""

from __future__ import annotations

import ast

from cases import each

from gradlint.source.file import SourceModule
from gradlint.source.iterators import consumed_whole
from gradlint.source.roundtrips import find_roundtrips
from gradlint.source.text import SourceText

NET = """
import numpy, torch, math
from torch import nn
class Net(nn.Module):
    def __init__(self, size):
        self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
        self.p = nn.Parameter(torch.zeros(2))
        self.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
        self.act, self.table, self.size, self.other = nn.ReLU(), torch.zeros(2), size, make()
        self.own = Net(1)
    def forward(self, x, *more):
"""
TAKEN_OUT = "torch.tensor(self.a(x).tolist())"


def module_of(text: str) -> SourceModule:
    return SourceModule(SourceText("m.py", text.encode()))


def cut_at(body: str) -> list[str]:
    """Return the places in a forward that cut all gradient to a layer: the layer, and the code."""
    body = body.replace("OUT", TAKEN_OUT).replace("\n", "\n        ")
    module = module_of(f"{NET}        {body}\n")
    [net] = module.tree.nodes(ast.ClassDef)
    forward = module.kinds.method(net, "forward")
    assert forward is not None
    return [f"{' '.join(trip.layers)}: {ast.unparse(trip.at)}" for trip in find_roundtrips(module, net, forward)]


@each(
    "body",
    [
        'return self.b(OUT)',
        'y = self.a(x).tolist()\nreturn self.b(torch.tensor(y))',
        'y = z = self.a(x).tolist()\nreturn self.b(torch.tensor(z))',
        'y: list = self.a(x).tolist()\nreturn self.b(torch.tensor(y))',
        'y = self.b(x)\ny += OUT\nreturn y',
        'if x:\n    y = OUT\nelse:\n    y = x\nreturn self.b(y)',
        'if x:\n    return self.b(x)\nreturn OUT',
        'y = x\nfor i in x:\n    z = self.b(y)\n    y = OUT\nreturn z',
        'for y in self.a(x).tolist():\n    z = self.b(torch.tensor(y))\nreturn z',
        'y = x\nwhile c:\n    y = OUT\nreturn self.b(y)',
        'for i in x:\n    pass\nelse:\n    y = OUT\nreturn self.b(y)',
        'y = []\ny.append(self.a(x).tolist())\nreturn self.b(torch.tensor(y))',
        'y = []\ny.extend(self.a(x).tolist())\nreturn self.b(torch.tensor(y))',
        'y = OUT\nprint(y)\nreturn self.b(y)',
        'y = OUT\nlog(x)\nreturn self.b(y)',
        '"text"\nreturn self.b(OUT)',
        'with f() as g:\n    y = OUT\nreturn self.b(y)',
        'with f():\n    y = OUT\nreturn self.b(y)',
        'assert x\nraise E\nreturn self.b(OUT)',
        'y, z = OUT, 1\nreturn self.b(y)',
        '[y, z] = OUT, 1\nreturn self.b(y)',
        'y, *z = OUT\nreturn self.b(z)',
        'y = [1]\ny[0] = OUT\nreturn self.b(y)',
        'return self.b(x) - -OUT',
        'return self.b(OUT[0])',
        'return self.b(*OUT)',
        'return [self.b(x), OUT]',
        'return (self.b(x), OUT)',
        'return {self.b(x), OUT}',
        'return {"a": self.b(x), "b": OUT}',
        'return self.b(x) if x else OUT',
        'return [self.b(y) for y in OUT]',
        'return sum(self.b(y) for y in OUT)',
        'return {self.b(y) for y in OUT}',
        'return self.b(x) + OUT.T',
        'return self.b(x) + OUT + self.table',
        'return self.b(x) + OUT + self.size',
        'return self.b(x) + sum(self.a(x).tolist())',
        'return self.b(x) + self.act(OUT)',
        'return self.b(x) + torch.relu(OUT)',
        'return self.b(x) + nn.functional.relu(OUT)',
        'return self.b(x) + torch.tensor(numpy.abs(self.a(x).tolist()))',
        'return self.b(x) + x.add(OUT)',
    ],
)  # fmt: skip
def test_forward_that_loses_a_layer(body: str) -> None:
    assert cut_at(body) == ["a: self.a(x).tolist()"]


@each(
    ("body", "place"),
    [
        ('return self.b(x) + self.a(x).data', 'a: self.a(x).data'),
        ('return self.b(x) + torch.tensor(self.p.tolist())', 'p: self.p.tolist()'),
        ('return self.b(x) + float(self.a(x))', 'a: float(self.a(x))'),
        ('return self.b(x) + torch.tensor(self.a(x))', 'a: torch.tensor(self.a(x))'),
        ('return self.b(x) + torch.as_tensor([self.a(x)])', 'a: torch.as_tensor([self.a(x)])'),
        ('return self.b(x) + torch.as_tensor([self.a(y) for y in x])', 'a: torch.as_tensor([self.a(y) for y in x])'),
        ('return self.b(x) + math.exp(self.a(x).item())', 'a: self.a(x).item()'),
        ('return self.b(x) + x.new_tensor(self.a(x))', 'a: x.new_tensor(self.a(x))'),
    ],
)  # fmt: skip
def test_place_that_loses_a_layer(body: str, place: str) -> None:
    assert cut_at(body) == [place]


@each(
    "body",
    [
        'return self.b(x)',
        'return OUT',
        'return',
        'y: list\nreturn self.b(x)',
        'self.y += OUT\nreturn self.b(x)',
        'y = []\nself.f(y)\nreturn self.b(torch.tensor(y)) + OUT',
        'y = OUT\nlog(y)\nreturn self.b(y)',
        'with f() as g:\n    y = OUT\nreturn self.b(y) + g',
        'with torch.no_grad():\n    y = OUT\nreturn self.b(y)',
        'try:\n    y = 1\nfinally:\n    pass\nreturn self.b(OUT)',
        'f()[0] = OUT\nreturn self.b(x)',
        'self.y = OUT\nreturn self.b(x)',
        'return self.b(x) * (1 < OUT)',
        'return self.b(x) * (x and OUT)',
        'return self.b(x) * (not OUT)',
        'return {1: self.b(y) for y in OUT}',
        'return self.b(OUT) + (lambda: 0)',
        'return self.b(x) + OUT.shape[0]',
        'return self.b(x) + OUT.parts',
        'return self.b(x) + torch.tensor(self.fixed.tolist())',
        'return self.b(x) + torch.tensor(self.table.tolist())',
        'return self.b(x) + OUT + self.other',
        'return self.b(x) + OUT + self.unknown',
        'return self.b(x) + len(self.a(x).tolist())',
        'return self.b(x) + open(self.a(x).tolist())',
        'return self.b(x) + f()(OUT)',
        'return self.b(x) + self.own(OUT)',
        'return self.b(x) + self.other(OUT)',
        'return self.b(x) + torch.as_tensor(self.a(x))',
        'return self.b(x) + torch.as_tensor()',
        'return self.b(x) + torch.zeros_like(OUT)',
        'return self.b(x) + torch.fft.fft(OUT)',
        'return self.b(x) + torch.tensor(numpy.abs(self.a(x)))',
        'return self.b(x) + self.a(x).size(0)',
        'return self.b(x) + OUT.new_zeros(2)',
        'return self.b(x) + self.a(x).detach()',
        'return self.b(x) + more(OUT)',
    ],
)  # fmt: skip
def test_forward_that_certainly_loses_none(body: str) -> None:
    assert cut_at(body) == []


@each(
    ("statement", "whole"),
    [
        ('it(P)', False),
        ('list(P)', True),
        ('len(P)', False),
        ('P()', False),
        ('list(*P)', True),
        ('list(x=P)', True),
        ('[*P]', True),
        ('{"params": P}', True),
        ('{"lr": P}', False),
        ('{"lr": 1, "params": P}', True),
        ('for p in P: pass', True),
        ('for p in P: break', False),
        ('for p in P: return', False),
        ('for p in P: raise E', False),
        ('for p in P: yield p', False),
        ('for p in x: P', False),
        ('[p for p in P]', True),
        ('{p for p in P}', True),
        ('{p: 1 for p in P}', True),
        ('[p for q in x for p in P]', False),
        ('sum(p for p in P)', True),
        ('any(p for p in P)', False),
        ('(p for p in P)', False),
        ('sum(p for q in x for p in P)', False),
        ('[P for p in x]', False),
        ('torch.nn.utils.clip_grad_norm_(P, 1)', True),
        ('torch.nn.utils.clip_grad_norm_(1, P)', False),
        ('torch.nn.utils.clip_grad_norm_(parameters=P)', True),
        ('torch.nn.utils.clip_grad_norm_(norm=P)', False),
        ('torch.optim.SGD(P, 0.1)', True),
        ('torch.optim.SGD(params=P)', True),
        ('torch.optim.SGD(x, lr=P)', False),
        ('torch.save(P)', False),
        ('x.extend(P)', True),
        ('x.extend(1, P)', False),
        ('x.update(P)', True),
        ('x.append(P)', False),
        ('", ".join(P)', True),
        ('x.join(P)', False),
        ('f()(P)', False),
        ('P', False),
    ],
)  # fmt: skip
def test_use_that_exhausts_an_iterator(statement: str, whole: bool) -> None:
    module = module_of(f"import torch\ndef f():\n    {statement}\n")
    [use] = module.tree.loads["P"]
    assert consumed_whole(module, use) is whole
