"""What the syntax of a file proves of its expressions: kinds, names, the order of statements, places in the text."""

from __future__ import annotations

import ast
import re

import pytest
from cases import each

from gradlint.location import Location
from gradlint.source.file import SourceModule
from gradlint.source.kinds import Kind
from gradlint.source.order import loops_around, surely_before, value_of
from gradlint.source.text import SourceText, Unreadable

HEAD = "import copy, itertools, torch, torchvision, timm, transformers\nfrom torch import nn\n"
NET = """
class Net(nn.Module):
    scale = nn.Linear(1, 1)

    def __init__(self, other):
        self.layer, self.other = nn.Linear(2, 2), other
        self.head: nn.Module = nn.ReLU()
        self.late = None
        self.late = nn.ReLU()
        self.two = nn.ReLU()
        self.two = 3
        other.foreign = nn.ReLU()

    @property
    def made(self):
        self.hidden = nn.ReLU()

    @staticmethod
    def free(net):
        net.beside = nn.ReLU()
        it(net)
"""


def module_of(text: str) -> SourceModule:
    return SourceModule(SourceText("m.py", text.encode()))


def asked(module: SourceModule, name: str = "it") -> ast.expr:
    """Return the argument of the only call of a function of this name."""
    [call] = [n for n in module.tree.nodes(ast.Call) if isinstance(n.func, ast.Name) and n.func.id == name]
    return call.args[0]


def in_words(kind: Kind | None) -> str:
    if kind is None:
        return "unknown"
    if kind.what == "many":
        words = ["many", *(["pairs"] if kind.pairs else []), *(["once"] if kind.once else [])]
        return " ".join([*words, in_words(kind.item)])
    name = kind.cls.name if isinstance(kind.cls, ast.ClassDef) else (kind.cls or "").removeprefix("torch.")
    return f"{kind.what} {name}".strip()


def kind_of(text: str) -> str:
    module = module_of(HEAD + text)
    return in_words(module.kind(asked(module)))


@each(
    ("expression", "kind"),
    [
        # calls of torch
        ("nn.Linear(2, 2)", "module nn.Linear"),
        ("nn.functional(2)", "unknown"),
        ("nn.Parameter(x)", "parameter"),
        ("nn.UninitializedParameter(x)", "unknown"),
        ("nn.Buffer(x)", "tensor"),
        ("torch.optim.SGD([])", "optimizer optim.SGD"),
        ("torch.optim.swap([])", "unknown"),
        ("torch.zeros(2)", "tensor"),
        ("torch.relu(x)", "unknown"),
        ("torch.linalg.eye(2)", "unknown"),
        # of other libraries
        ("transformers.AutoModel.from_pretrained('x')", "module transformers.AutoModel"),
        ("transformers.AutoModel.from_config(c)", "module transformers.AutoModel"),
        ("transformers.AutoModel.register(c)", "unknown"),
        ("transformers.AutoTokenizer.from_pretrained('x')", "unknown"),
        ("torchvision.models.resnet18()", "module"),
        ("torchvision.models.get_model('x')", "unknown"),
        ("torchvision.models.list_models()", "unknown"),
        ("timm.create_model('x')", "module"),
        # what gives its argument
        ("copy.deepcopy(nn.Linear(2, 2))", "module nn.Linear"),
        ("copy.copy(nn.Linear(2, 2))", "module nn.Linear"),
        ("copy.replace(nn.Linear(2, 2))", "unknown"),
        ("copy.deepcopy()", "unknown"),
        ("torch.compile(nn.Linear(2, 2))", "module nn.Linear"),
        ("torch.compile()", "unknown"),
        ("nn.DataParallel()", "module nn.DataParallel"),
        # chains
        ("itertools.chain(a.parameters(), b.parameters())", "many once parameter"),
        ("itertools.chain(a.parameters(), [1])", "many once unknown"),
        ("itertools.chain(a.parameters(), b)", "many once unknown"),
        ("itertools.chain(nn.Linear(2, 2))", "many once unknown"),
        ("itertools.chain()", "unknown"),
        ("itertools.cycle(a.parameters())", "unknown"),
        # methods
        ("x.parameters()", "many once parameter"),
        ("x.parameters(3)", "unknown"),
        ("x.parameters(recurse=False)", "unknown"),
        ("nn.ReLU().parameters(recurse=False)", "many once parameter"),
        ("torch.zeros(2).parameters()", "unknown"),
        ("x.named_parameters()", "many pairs once parameter"),
        ("x.modules()", "many once module"),
        ("x.modules(3)", "unknown"),
        ("x.named_modules()", "many pairs once module"),
        ("torch.zeros(2).modules()", "unknown"),
        ("nn.ReLU().modules()", "many once module"),
        ("x.children()", "unknown"),
        ("nn.ReLU().children()", "many once module"),
        ("nn.ReLU().named_children()", "many pairs once module"),
        ("torch.zeros(2).children()", "unknown"),
        ("nn.ReLU().to('cpu')", "module nn.ReLU"),
        ("nn.ReLU().state_dict()", "unknown"),
        ("torch.zeros(2).to('cpu')", "tensor"),
        ("torch.zeros(2).item()", "unknown"),
        ("nn.ReLU().view(2)", "unknown"),
        ("x.to('cpu')", "unknown"),
        ("x.unknown()", "unknown"),
        # functions of Python
        ("list(x.parameters())", "many parameter"),
        ("list(x.named_parameters())", "many pairs parameter"),
        ("list(torch.zeros(2))", "unknown"),
        ("list(x)", "unknown"),
        ("list()", "unknown"),
        ("reversed(x.parameters())", "many once parameter"),
        ("frozenset(x.parameters())", "unknown"),
        ("filter(f, x.parameters())", "many once parameter"),
        ("filter(f, x.named_parameters())", "many pairs once parameter"),
        ("filter(f, x)", "many once unknown"),
        ("filter(f, torch.zeros(2))", "many once unknown"),
        ("filter(x.parameters())", "unknown"),
        ("map(f, x)", "many once unknown"),
        ("enumerate(x.parameters())", "many pairs once parameter"),
        ("enumerate([f()])", "many pairs once unknown"),
        ("enumerate(x.named_parameters())", "many pairs once unknown"),
        ("enumerate(nn.Sequential())", "many pairs once module"),
        ("enumerate(torch.zeros(2))", "unknown"),
        ("enumerate(x)", "unknown"),
        # elements
        ("nn.Sequential(nn.Linear(2, 2), nn.ReLU())[1]", "module nn.ReLU"),
        ("nn.Sequential(nn.Linear(2, 2), nn.ReLU())[-2]", "module"),
        ("nn.Sequential(nn.Linear(2, 2))[4]", "module"),
        ("nn.Sequential(f())[0]", "module"),
        ("nn.Sequential(nn.ReLU(), *rest)[0]", "module"),
        ("nn.Sequential(nn.ReLU())['a']", "module"),
        ("nn.Sequential(nn.ReLU())[i]", "module"),
        ("nn.Sequential(nn.ReLU())[:1]", "module nn.Sequential"),
        ("nn.ModuleList([nn.ReLU()])[0]", "module"),
        ("nn.ModuleList(nn.ReLU())[0]", "module"),
        ("nn.ModuleDict({})['a']", "module"),
        ("nn.ReLU()[0]", "unknown"),
        ("torch.zeros(2)[0]", "tensor"),
        ("[nn.ReLU()][0]", "module nn.ReLU"),
        ("[nn.ReLU()][:1]", "unknown"),
        ("list(x.named_parameters())[0]", "unknown"),
        ("x[0]", "unknown"),
        # attributes
        ("nn.Linear(2, 2).weight", "parameter"),
        ("nn.Linear(2, 2).bias", "parameter"),
        ("nn.Linear(2, 2).training", "unknown"),
        ("transformers.AutoModel.from_pretrained('x').weight", "unknown"),
        ("torch.zeros(2).weight", "unknown"),
        ("timm.create_model('x').weight", "unknown"),
        # other expressions
        ("nn.ReLU() if c else nn.ReLU()", "module nn.ReLU"),
        ("nn.ReLU() if c else nn.Tanh()", "module"),
        ("nn.ReLU() if c else torch.zeros(2)", "unknown"),
        ("nn.ReLU() if c else f()", "unknown"),
        ("f() if c else nn.ReLU()", "unknown"),
        ("x.parameters() if c else list(x.parameters())", "unknown"),
        ("[nn.ReLU()] if c else [nn.Tanh()]", "many module"),
        ("torch.zeros(2) if c else torch.ones(2)", "tensor"),
        ("nn.ReLU() or nn.ReLU()", "module nn.ReLU"),
        ("(n := nn.ReLU())", "module nn.ReLU"),
        ("[nn.ReLU(), nn.ReLU()]", "many module nn.ReLU"),
        ("(nn.ReLU(),)", "many module nn.ReLU"),
        ("{nn.ReLU()}", "many module nn.ReLU"),
        ("[]", "many unknown"),
        ("[nn.ReLU() for _ in x]", "many module nn.ReLU"),
        ("(nn.ReLU() for _ in x)", "many once module nn.ReLU"),
        ("[p for p in x.parameters()]", "many parameter"),
        ("[p for n, p in x.named_parameters()]", "many parameter"),
        ("[n for n, p in x.named_parameters()]", "many unknown"),
        ("[p for p in x.named_parameters()]", "many unknown"),
        ("[p for a, p in x.parameters()]", "many unknown"),
        ("[p for n, p, q in x.named_parameters()]", "many unknown"),
        ("[p for n, p in torch.zeros(2)]", "many unknown"),
        ("[layer for layer in nn.Sequential()]", "many module"),
        ("[row for row in nn.ReLU()]", "many unknown"),
        ("[row for row in torch.zeros(2)]", "many unknown"),
        ("[row for row in x]", "many unknown"),
        ("{}", "other"),
        ("{k: v for k, v in x}", "other"),
        ("lambda: 0", "other"),
        ("f'{x}'", "other"),
        ("3", "other"),
        ("-x", "unknown"),
        ("x", "unknown"),
    ],
)  # fmt: skip
def test_kind_of_an_expression(expression: str, kind: str) -> None:
    assert kind_of(f"it({expression})\n") == kind


@each(
    ("text", "kind"),
    [
        ("a = nn.ReLU()\nit(a)", "module nn.ReLU"),
        ("a = b = nn.ReLU()\nit(a)", "module nn.ReLU"),
        ("a: object = nn.ReLU()\nit(a)", "module nn.ReLU"),
        ("a: object\nit(a)", "unknown"),
        ("a, b = nn.ReLU(), nn.Tanh()\nit(b)", "module nn.Tanh"),
        ("[a, b] = [nn.ReLU(), nn.Tanh()]\nit(b)", "module nn.Tanh"),
        ("a, *b = nn.ReLU(), nn.Tanh()\nit(a)", "unknown"),
        ("a, b = nn.ReLU(), *c\nit(a)", "unknown"),
        ("a, b = nn.ReLU(), nn.Tanh(), nn.Tanh()\nit(a)", "unknown"),
        ("a, b = c\nit(a)", "unknown"),
        ("(a, b), c = (nn.ReLU(), nn.Tanh()), nn.ELU()\nit(c)", "module nn.ELU"),
        ("a = nn.ReLU()\na = nn.Tanh()\nit(a)", "module"),
        ("a = nn.ReLU()\na = 3\nit(a)", "unknown"),
        ("a = a2\na2 = a\nit(a)", "unknown"),
        ("list = f\nit(list(x.parameters()))", "unknown"),
        ("for a in x.parameters():\n    it(a)", "parameter"),
        ("for a in [nn.ReLU()]:\n    it(a)", "module nn.ReLU"),
        ("for n, a in enumerate([nn.ReLU()]):\n    it(a)", "module nn.ReLU"),
        ("for n, (a, b) in enumerate([nn.ReLU()]):\n    it(b)", "unknown"),
        ("for x[0] in [nn.ReLU()]:\n    it(x)", "unknown"),
        ("with nn.ReLU() as a:\n    it(a)", "unknown"),
        ("import a\nit(a)", "unknown"),
        ("def f(a: nn.ReLU):\n    it(a)", "module nn.ReLU"),
        ("def f(a: torch.Tensor):\n    it(a)", "tensor"),
        ("def f(a: nn.Parameter):\n    it(a)", "parameter"),
        ("def f(a: int):\n    it(a)", "unknown"),
        ("def f(a: 'nn.ReLU'):\n    it(a)", "unknown"),
        ("def f(a):\n    it(a)", "unknown"),
        ("class Plain:\n    pass\n\ndef f(a: Plain):\n    it(a)", "unknown"),
        ("class Plain:\n    def f(self):\n        it(self)", "unknown"),
        ("class Plain:\n    pass\n\nit(Plain())", "unknown"),
        (NET + "\nit(Net(0))", "unknown"),
    ],
)  # fmt: skip
def test_kind_of_a_name(text: str, kind: str) -> None:
    assert kind_of(text.replace("it(net)", "pass") if text.startswith(NET) else text) == kind.replace(
        "unknown", "module Net" if text.startswith(NET) else "unknown"
    )


NET_USED = NET.replace("it(net)", "pass")


@each(
    ("expression", "kind"),
    [
        ("net.layer", "module nn.Linear"),
        ("net.other", "unknown"),
        ("net.head", "module nn.ReLU"),
        ("net.late", "module nn.ReLU"),
        ("net.two", "unknown"),
        ("net.scale", "module nn.Linear"),
        ("net.foreign", "unknown"),
        ("net.made", "unknown"),
        ("net.hidden", "unknown"),
        ("net.beside", "unknown"),
        ("net.absent", "unknown"),
        ("Sub(0).layer", "module nn.Linear"),
        ("Sub(0).more", "module nn.Tanh"),
        ("Sub(0).weight", "unknown"),
        ("Typed(0)", "module Typed"),
        ("Selfish(0)", "unknown"),
        ("Alias(0)", "module Net"),
        ("Twice(0)", "unknown"),
        ("Lightning(0)", "module Lightning"),
    ],
)  # fmt: skip
def test_kind_of_an_attribute(expression: str, kind: str) -> None:
    more = """
import lightning
class Sub(Net):
    def more_of_it(self):
        self.more = nn.Tanh()
class Typed(Net[int]):
    pass
class Selfish(Selfish):
    pass
class Lightning(lightning.LightningModule):
    pass
Alias = Net
Twice = Net
Twice = Sub
net = Net(0)
"""
    assert kind_of(f"{NET_USED}{more}it({expression})\n") == kind


@each(
    ("text", "bound"),
    [
        ("a = 1\ndef f():\n    a = 2\n    it(a)", "2"),
        ("a = 1\ndef f():\n    a = 2\nit(a)", "1"),
        ("a = 1\ndef f():\n    global a\n    a = 2\nit(a)", "1 2"),
        ("a = 1\ndef f():\n    global a\n    a = 2\n    it(a)", "1 2"),
        ("a = 1\ndef f():\n    a = 2\n    def g():\n        global a\n        it(a)", "1"),
        ("a = 1\nclass C:\n    def f(self):\n        global a\n        a = 2\nit(a)", "1 2"),
        ("def f():\n    a = 1\n    def g():\n        nonlocal a\n        a = 2\n    it(a)", "1 2"),
        ("def f():\n    global a\n    def g():\n        nonlocal a\n        a = 2\nit(a)", "2"),
        ("class C:\n    a = 1\n    it(a)", "1"),
        ("class C:\n    a = 1\n    def f(self):\n        it(a)", ""),
        ("class C:\n    a = 1\n    [it(a) for i in x]", "1"),
        ("[(a := 1) for i in x]\nit(a)", "1"),
        ("class C:\n    a = 1\n    class D:\n        it(a)", ""),
    ],
)  # fmt: skip
def test_values_that_a_name_is_bound_to(text: str, bound: str) -> None:
    module = module_of(text)
    name = asked(module)
    assert isinstance(name, ast.Name)
    values = [module.kinds.value_given(binding) for binding in module.tree.bindings(name)]
    assert " ".join(sorted(ast.unparse(value) for value in values if value is not None)) == bound


@each(
    ("text", "binder"),
    [
        ("import a.b\nit(a)", "alias"),
        ("import b as a\nit(a)", "alias"),
        ("try:\n    pass\nexcept E as a:\n    it(a)", "ExceptHandler"),
        ("try:\n    pass\nexcept E:\n    it(a)", ""),
        ("match x:\n    case [b, *a]:\n        it(a)", "MatchStar"),
        ("match x:\n    case b as a:\n        it(a)", "MatchAs"),
        ("match x:\n    case {**a}:\n        it(a)", "MatchMapping"),
        ("match x:\n    case {'k': _}:\n        it(a)", ""),
        ("def a():\n    it(a)", "FunctionDef"),
        ("class a:\n    it(a)", "ClassDef"),
        ("def f(a):\n    it(a)", "arg"),
        ("a = 1\n@it(a)\ndef f(a):\n    pass", "Name"),
        ("def f(a) -> it(a):\n    pass", ""),
    ],
)  # fmt: skip
def test_what_binds_a_name(text: str, binder: str) -> None:
    module = module_of(text)
    name = asked(module)
    assert isinstance(name, ast.Name)
    assert " ".join(type(binding).__name__ for binding in module.tree.bindings(name)) == binder


def test_argument_of_a_static_method_is_no_instance() -> None:
    assert kind_of(NET) == "unknown"


@each(
    ("text", "name"),
    [
        ("import torch\nit(torch.nn.Linear)", "torch.nn.Linear"),
        ("import torch.nn\nit(torch)", "torch"),
        ("import torch.nn as n\nit(n.Linear)", "torch.nn.Linear"),
        ("from torch import nn\nit(nn)", "torch.nn"),
        ("from .a import b\nit(b)", ".a.b"),
        ("from .. import b\nit(b)", "...b"),
        ("from torch.nn import *\nit(Linear)", "torch.nn.Linear"),
        ("from torch.nn import *\nit(Unknown)", ""),
        ("from torch.optim import *\nit(Linear)", ""),
        ("it(Linear)", ""),
        ("import torch\nn = torch.nn\nit(n.Linear)", "torch.nn.Linear"),
        ("import torch\nn = m = torch\nit(n)", "torch"),
        ("import torch\nn, m = torch\nit(n)", ""),
        ("import torch\nn = torch()\nit(n)", ""),
        ("n = n\nit(n)", ""),
        ("try:\n    import torch\nexcept ImportError:\n    torch = None\nit(torch)", "torch"),
        ("import torch\ntorch = 3\nit(torch)", ""),
        ("import torch\nimport numpy as torch\nit(torch)", ""),
        ("import torch\nfor torch in x:\n    it(torch)", ""),
        ("import torch\nit(torch.nn.modules.linear.Linear)", "torch.nn.Linear"),
        ("import torch\nit(f().nn)", ""),
    ],
)  # fmt: skip
def test_name_of_an_import(text: str, name: str) -> None:
    module = module_of(text)
    assert module.qualified(asked(module)) == name


@each(
    ("text", "before"),
    [
        ("one(a)\nit(b)", True),
        ("it(b)\none(a)", False),
        ("f(one(a), it(b))", True),
        ("if c:\n    pass\nelif one(a):\n    it(b)", True),
        ("while one(a):\n    it(b)", True),
        ("f(it(b), one(a))", False),
        ("if c:\n    one(a)\nit(b)", False),
        ("one(a)\nif c:\n    it(b)", True),
        ("if one(a):\n    it(b)", True),
        ("if c:\n    it(b)\none(a)", False),
        ("one(a)\ndef f():\n    it(b)", True),
        ("one(a)\nif c:\n    def f():\n        it(b)", False),
        ("one(a)\nif c:\n    class C:\n        it(b)", False),
        ("c and one(a)\nit(b)", False),
        ("one(a) if c else 0\nit(b)", False),
        ("(lambda: one(a))\nit(b)", False),
        ("[one(a) for i in x]\nit(b)", True),
        ("(one(a) for i in x)\nit(b)", False),
        ("(i for i in one(a))\nit(b)", True),
        ("(i for i in x if one(a))\nit(b)", False),
        ("(i for j in x for i in one(a))\nit(b)", False),
        ("c and (i for i in one(a))\nit(b)", False),
        ("one(a)\ntry:\n    pass\nexcept E:\n    it(b)", True),
        ("try:\n    one(a)\nexcept E:\n    it(b)", False),
        ("one(a)\nmatch c:\n    case 1:\n        it(b)", True),
        ("for i in x:\n    one(a)\n    it(b)", True),
    ],
)  # fmt: skip
def test_order_that_is_sure(text: str, before: bool) -> None:
    module = module_of(text)
    assert surely_before(module.tree, asked(module, "one"), asked(module)) is before


@each(
    ("text", "value"),
    [
        ("a = 1\nit(a)", "1"),
        ("a = 1\na = 2\nit(a)", "2"),
        ("it(a)\na = 1", None),
        ("it(a)", None),
        ("a = 1\nif c:\n    a = 2\nit(a)", None),
        ("if c:\n    a = 2\nit(a)", None),
        ("a = 1\nfor i in x:\n    it(a)\n    a = 2", None),
        ("for i in x:\n    a = 1\n    it(a)\n    b = 2", "1"),
        ("for i in x:\n    a = 2\na = 1\nit(a)", "1"),
        ("a = 1\na += 1\nit(a)", None),
        ("a = it(a)", None),
        ("a = 1\na = it(a)", "1"),
        ("a = 1\ndef f():\n    it(a)", None),
        ("a = 1\ndef f():\n    global a\n    a = 2\nit(a)", None),
        ("a = 1\ndef f():\n    a = 2\nit(a)", "1"),
        ("import a\nit(a)", None),
        ("for a in x:\n    it(a)", None),
    ],
)  # fmt: skip
def test_value_that_is_sure(text: str, value: str | None) -> None:
    module = module_of(text)
    name = asked(module)
    assert isinstance(name, ast.Name)
    found = value_of(module, name)
    assert (ast.unparse(found) if found is not None else None) == value


@each(
    ("text", "lines"),
    [
        ("it(a)", []),
        ("for i in x:\n    it(a)", [1]),
        ("for i in it(a):\n    pass", []),
        ("for i in x:\n    pass\nelse:\n    it(a)", []),
        ("while it(a):\n    pass", [1]),
        ("for i in x:\n    while c:\n        it(a)", [2, 1]),
        ("for i in x:\n    def f():\n        it(a)", []),
        ("for i in x:\n    class C:\n        it(a)", []),
        ("async def f():\n    async for i in x:\n        it(a)", [2]),
    ],
)  # fmt: skip
def test_loops_around(text: str, lines: list[int]) -> None:
    module = module_of(text)
    assert [loop.lineno for loop in loops_around(module.tree, asked(module))] == lines


def test_place_of_a_class_is_its_head() -> None:
    module = module_of("@wrap\nclass A:   \n    pass\n")
    assert module.head(module.syntax.body[0]) == Location("m.py", 2, 1, 2, 8)


@each(("text", "last"), [("a = 1\nb = [\n  2]", "b = [\n  2]"), ("b = [\n  2]\nc = 3\n", "b = [\n  2]\n")])
def test_text_of_a_statement_is_its_lines(text: str, last: str) -> None:
    module = module_of(text)
    [statement] = [s for s in module.assignments if ast.unparse(s.targets[0]) == "b"]  # type: ignore[union-attr]
    assert module.text_of(statement) == last


TEXT = SourceText("m.py", "ä = 'ö' + f(1)\r\nb = 2\rc = 3\n".encode())


@each(("number", "line"), [(0, ""), (1, "ä = 'ö' + f(1)"), (2, "b = 2"), (3, "c = 3"), (4, ""), (5, "")])
def test_line_by_its_number(number: int, line: str) -> None:
    assert TEXT.line(number) == line


def test_location_counts_characters() -> None:
    module = SourceModule(TEXT)
    [call] = module.tree.nodes(ast.Call)
    assert module.location(call) == Location("m.py", 1, 11, 1, 15)
    assert module.text(call) == "f(1)"


def test_location_of_a_node_without_a_place_is_the_start() -> None:
    assert TEXT.location(ast.Load()) == Location("m.py", 1, 1, 1, 0)


@each(
    ("place", "text"),
    [
        (Location("m.py", 2, 1, 2, 2), "b"),
        (Location("m.py", 2, 3), ""),
        (Location("m.py", 2, 1, 3, 2), "b = 2\rc"),
        (Location("m.py", 9, 1, 9, 2), ""),
        (Location("m.py", 3, 90, 3, 99), ""),
    ],
)
def test_text_of_a_place(place: Location, text: str) -> None:
    assert TEXT.slice(place) == text


@each(
    ("data", "message", "line"),
    [
        (b"a = (", "'(' was never closed", 1),
        (b"a = 1\nb = 1 1\n", "invalid syntax", 2),
        (b"a = 1\nb = '\xff'\n", "it is not utf-8: invalid start byte", 2),
        (b"# coding: nonsense\n", "unknown encoding: nonsense", 1),
        (b"a = 1\x00\n", "source code string cannot contain null bytes", 1),
    ],
)
def test_text_that_cannot_be_parsed(data: bytes, message: str, line: int) -> None:
    with pytest.raises(Unreadable, match=re.escape(message)) as caught:
        SourceModule(SourceText("m.py", data))
    assert caught.value.line == line


@each(
    ("data", "newline"),
    [(b"a = 1\n", "\n"), (b"a = 1\r\nb = 2\n", "\r\n"), (b"a = 1\r", "\r"), (b"a = 1", "\n"), (b"", "\n")],
)
def test_line_end_of_a_file(data: bytes, newline: str) -> None:
    assert SourceText("m.py", data).newline == newline


@each(
    ("data", "encoded"),
    [
        (b"a = 1\n", b"b"),
        (b"\xef\xbb\xbfa = 1\n", b"\xef\xbb\xbfb"),
        (b"# coding: latin-1\n# \xe4\n", b"b"),
    ],
)
def test_text_is_encoded_as_its_file(data: bytes, encoded: bytes) -> None:
    assert SourceText("m.py", data).encoded("b") == encoded


def test_byte_order_mark_is_no_part_of_the_text() -> None:
    assert SourceText("m.py", b"\xef\xbb\xbfa = 1\n").text == "a = 1\n"
