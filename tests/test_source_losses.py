"""What the source proves of activations before a loss, of hard-wired dropout and of copies between networks."""

from __future__ import annotations

import ast

from cases import each

from gradlint.location import Location
from gradlint.source.copies import copies_own_value, networks_copied
from gradlint.source.dropouts import hard_wired_dropouts
from gradlint.source.file import SourceModule
from gradlint.source.losses import activated_losses
from gradlint.source.text import SourceText

IMPORTS = "import torch\nfrom torch import nn\nfrom torch.nn import functional as F\n"
NETS = """
class Last(nn.Module):
    def forward(self, x):
        if x: return F.softmax(x, 1)
        def inner(): return x
        return x.softmax(1)
class Some(nn.Module):
    def forward(self, x):
        if x: return F.softmax(x, 1)
        return x
class Bare(nn.Module):
    def forward(self, x):
        return
class Empty(nn.Module):
    pass
"""
NET = """
class Net(nn.Module):
    def __init__(self, p):
        self.p, self.set, self.drop_active_p = p, p, p
    def set_p(self, p):
        self.set = p
    @property
    def made(self):
        return 1
    def forward(self, x, drop_it, on=False, *more, **kw):
        q = 0.5
        BODY
"""


def module_of(text: str) -> SourceModule:
    return SourceModule(SourceText("m.py", text.encode()))


def activations(text: str) -> str:
    """Return the activations before cross_entropy: name, axis, and the call that is blamed."""
    names = frozenset(("softmax", "sigmoid"))
    found = activated_losses(module_of(IMPORTS + NETS + text), "cross_entropy", "CrossEntropyLoss", names)
    return "; ".join(f"{a.name} {a.dim}: {ast.unparse(a.call)}" for _, a in found)


@each(
    ("given", "activation"),
    [
        ('F.softmax(x, 1)', 'softmax 1: F.softmax(x, 1)'),
        ('F.softmax(x, dim=1)', 'softmax 1: F.softmax(x, dim=1)'),
        ('F.softmax(x)', 'softmax None: F.softmax(x)'),
        ('F.softmax(x, d)', ''),
        ('F.softmax(x, (1,))', ''),
        ('F.sigmoid(x)', 'sigmoid None: F.sigmoid(x)'),
        ('torch.softmax(x, -1)', 'softmax -1: torch.softmax(x, -1)'),
        ('torch.special.softmax(x, -1)', 'softmax -1: torch.special.softmax(x, -1)'),
        ('F.log_softmax(x, 1)', ''),
        ('torch.fft.softmax(x, 1)', ''),
        ('x.softmax(1)', 'softmax 1: x.softmax(1)'),
        ('x.softmax(dim=1)', 'softmax 1: x.softmax(dim=1)'),
        ('self.softmax(1)', ''),
        ('cls.softmax(1)', ''),
        ('x.softmax(1).clamp(0)', ''),
        ('x.softmax(1).view(2)', 'softmax 1: x.softmax(1)'),
        ('x.softmax(1).float()', 'softmax 1: x.softmax(1)'),
        ('x.softmax(1).mean(1)', ''),
        ('x.sigmoid().view(2)', 'sigmoid None: x.sigmoid()'),
        ('f(x)', ''),
        ('x', ''),
        ('nn.Softmax(1)(x)', 'softmax 1: nn.Softmax(1)(x)'),
        ('nn.Softmax(dim=1)(x)', 'softmax 1: nn.Softmax(dim=1)(x)'),
        ('nn.Softmax()(x)', 'softmax None: nn.Softmax()(x)'),
        ('nn.ReLU()(x)', ''),
        ('nn.Sequential(nn.ReLU(), nn.Softmax(1))(x)', 'softmax 1: nn.Softmax(1)'),
        ('nn.Sequential(nn.Softmax(1), nn.ReLU())(x)', ''),
        ('nn.Sequential(nn.Sequential(nn.Softmax(1)))(x)', 'softmax 1: nn.Softmax(1)'),
        ('nn.Sequential()(x)', ''),
        ('nn.Sequential(*layers)(x)', ''),
        ('nn.Sequential(f())(x)', ''),
        ('Last()(x)', 'softmax 1: x.softmax(1)'),
        ('Some()(x)', ''),
        ('Bare()(x)', ''),
        ('Empty()(x)', ''),
        ('torch.zeros(2)(x)', ''),
    ],
)  # fmt: skip
def test_activation_of_what_a_loss_is_given(given: str, activation: str) -> None:
    assert activations(f"F.cross_entropy({given}, y)\n") == activation


@each(
    ("text", "activation"),
    [
        ('a = F.softmax(x, 1)\nF.cross_entropy(a, y)\n', 'softmax 1: F.softmax(x, 1)'),
        ('a = b\nb = a\nF.cross_entropy(a, y)\n', ''),
        ('crit = nn.CrossEntropyLoss()\ncrit(F.softmax(x, 1), y)\n', 'softmax 1: F.softmax(x, 1)'),
        ('net = nn.Softmax(1)\nF.cross_entropy(net(x), y)\n', 'softmax 1: net(x)'),
        ('net = nn.Sequential(nn.Softmax(1))\nF.cross_entropy(net(x), y)\n', 'softmax 1: nn.Softmax(1)'),
        ('F.softmax(x)\n', ''),
    ],
)  # fmt: skip
def test_activation_by_name(text: str, activation: str) -> None:
    assert activations(text) == activation


def dropouts(text: str) -> str:
    """Return why each hard-wired dropout drops in eval mode, and whether a name says that it is meant."""
    found = hard_wired_dropouts(module_of(IMPORTS + text))
    return "; ".join(f"{d.fault.value}{' meant' if d.deliberate else ''}" for d in found)


@each(
    ("body", "fault"),
    [
        ('return F.dropout(x)', 'no argument'),
        ('return F.dropout(x, 0.5)', 'no argument'),
        ('return F.dropout(x, p=0.5)', 'no argument'),
        ('return F.dropout(x, 0.0)', ''),
        ('return F.dropout(x, 0.5, True)', 'constant meant'),
        ('return F.dropout(x, training=True)', 'constant meant'),
        ('return F.dropout(x, train=True)', 'constant meant'),
        ('return F.dropout(x, training=False)', ''),
        ('return F.dropout(x, training=self.training)', ''),
        ('return F.dropout(*x)', ''),
        ('return F.dropout(x, **kw)', ''),
        ('return F.dropout(x, q)', 'no argument'),
        ('return F.dropout(x, unknown)', ''),
        ('return F.dropout(x, self.p)', 'no argument'),
        ('return F.dropout(x, self.set)', ''),
        ('return F.dropout(x, self.made)', ''),
        ('return F.dropout(x, self.absent)', 'no argument'),
        ('return F.dropout(x, "a")', ''),
        ('return F.dropout(x, f())', ''),
        ('return torch.dropout(x, 0.5, True)', 'constant meant'),
        ('return torch.dropout(x, 0.5)', ''),
        ('return x.dropout()', ''),
        ('return F.alpha_dropout(x)', ''),
        ('return F.alpha_dropout(x, training=True)', 'constant meant'),
        ('return F.feature_alpha_dropout(x, training=True)', 'constant meant'),
        ('return F.scaled_dot_product_attention(x, x, x)', ''),
        ('return F.scaled_dot_product_attention(x, x, x, None, 0.1)', 'attention'),
        ('return F.scaled_dot_product_attention(x, x, x, dropout_p=0.1)', 'attention'),
        ('return F.scaled_dot_product_attention(x, x, x, dropout_p=0.0)', ''),
        ('return nn.Dropout()(x)', 'new layer'),
        ('return nn.Dropout(0.5)(x)', 'new layer'),
        ('return nn.Dropout(p=0.5)(x)', 'new layer'),
        ('return nn.Dropout(p=0)(x)', ''),
        ('return nn.Dropout(inplace=True)(x)', 'new layer'),
        ('return nn.Dropout', ''),
        ('d = nn.Dropout(0.5)\nreturn d(x)', 'new layer'),
        ('d = nn.Dropout(0.5)\nd.eval()\nreturn d(x)', ''),
        ('d = nn.Dropout(0.5)\nd = nn.ReLU()\nreturn d(x)', ''),
        ('d, e = nn.Dropout(0.5), 1\nreturn d(x)', ''),
        ('self.d = nn.Dropout(0.5)\nreturn self.d(x)', ''),
        ('return my.Dropout(0.5)(x)', ''),
        ('if self.training:\n    x = F.dropout(x)\nreturn x', ''),
        ('if not self.training:\n    return x\nreturn F.dropout(x)', ''),
        ('if x:\n    return x\nreturn F.dropout(x)', 'no argument'),
        ('if self.training:\n    y = x\nreturn F.dropout(x)', 'no argument'),
        ('while self.training:\n    x = F.dropout(x)\nreturn x', ''),
        ('x = F.dropout(x) if self.training else x\nreturn x', ''),
        ('return self.training and F.dropout(x)', ''),
        ('return F.dropout(x) and self.training', 'no argument'),
        ('if on:\n    x = F.dropout(x)\nreturn x', ''),
        ('if drop_it:\n    x = F.dropout(x)\nreturn x', ''),
        ('if more:\n    x = F.dropout(x)\nreturn x', 'no argument'),
        ('if F.dropout(x):\n    x = 1\nreturn x', 'no argument'),
        ('if self.mc_dropout:\n    x = F.dropout(x)\nreturn x', 'no argument meant'),
        ('return F.dropout(x, mc_p)', ''),
        ('def inner():\n    return F.dropout(x)\nreturn x', ''),
    ],
)  # fmt: skip
def test_dropout_in_a_forward(body: str, fault: str) -> None:
    assert dropouts(NET.replace("BODY", body.replace("\n", "\n        "))) == fault


@each(
    ("title", "text", "fault"),
    [
        (
            'a helper that forward calls',
            'class Net(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return self.helper(x)\n'
            '    def helper(self, x):\n'
            '        return F.dropout(x)\n',
            'no argument',
        ),
        (
            'a helper that nothing calls',
            'class Net(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return x\n'
            '    def helper(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'a helper called in train mode',
            'class Net(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return self.helper(x) if self.training else x\n'
            '    def helper(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'a helper for training',
            'class Net(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return self.train_part(x)\n'
            '    def train_part(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'helpers that call each other',
            'class Net(nn.Module):\n'
            '    def one(self, x):\n'
            '        return self.two(x)\n'
            '    def two(self, x):\n'
            '        return self.one(F.dropout(x))\n',
            '',
        ),
        (
            "another object's helper",
            'class Net(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return x.helper(x)\n'
            '    def helper(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'no module',
            'class Net:\n'
            '    def forward(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'a base of a library',
            'import lib\n'
            'class Net(lib.Base):\n'
            '    def forward(self, x):\n'
            '        return F.dropout(x)\n',
            'no argument',
        ),
        (
            'a base of torch that is no module',
            'class Net(torch.autograd.Function):\n'
            '    def forward(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'a base of a library, without a forward',
            'import lib\n'
            'class Net(lib.Base):\n'
            '    def call(self, x):\n'
            '        return F.dropout(x)\n',
            '',
        ),
        (
            'a name that says it',
            'class MCDropout(nn.Module):\n'
            '    def forward(self, x):\n'
            '        return F.dropout(x)\n',
            'no argument meant',
        ),
        (
            'a function',
            'def forward(x):\n'
            '    return F.dropout(x)\n',
            '',
        ),
    ],
)  # fmt: skip
def test_dropout_in_code_around_a_forward(title: str, text: str, fault: str) -> None:
    assert dropouts(text) == fault


def marked(text: str) -> tuple[SourceModule, Location]:
    """Return a file, and the line of it that is marked."""
    [line] = [number for number, line in enumerate(text.split("\n"), 1) if line.endswith("# here")]
    return module_of(text), Location("m.py", line)


@each(
    ("text", "networks"),
    [
        ('b.load_state_dict(a.state_dict())  # here', ('b', 'a')),
        ('b.load_state_dict(state_dict=a.state_dict())  # here', ('b', 'a')),
        ('b.load_state_dict(a)  # here', None),
        ('s = a.state_dict()\nb.load_state_dict(s)  # here', ('b', 'a')),
        ('b.load_state_dict(b.state_dict())  # here', None),
        ('b.load_state_dict(f().state_dict())  # here', None),
        ('b.load_state_dict(self.a.state_dict())  # here', ('b', 'self.a')),
        ('b.load_state_dict(nets[0].state_dict())  # here', ('b', 'nets[0]')),
        ('b.load_state_dict(nets[i].state_dict())  # here', None),
        ('c = nets[0]\nb.load_state_dict(c.state_dict())  # here', ('b', 'c')),
        ('c = nets[i]\nb.load_state_dict(c.state_dict())  # here', None),
        ('c, d = nets\nb.load_state_dict(c.state_dict())  # here', ('b', 'c')),
        ('c, d = nets[i]\nb.load_state_dict(c.state_dict())  # here', None),
        ('for c in nets:\n    b.load_state_dict(c.state_dict())  # here', None),
        ('async def f():\n    async for c in nets:\n        b.load_state_dict(c.state_dict())  # here', None),
        ('[b.load_state_dict(c.state_dict()) for c in nets]  # here', None),
        ('for p, q in zip(a.parameters(), b.parameters()):\n    q.copy_(p)  # here', ('a', 'b')),
        ('for p, q in zip(a.parameters(), b.parameters()):  # here\n    q.copy_(p)', ('a', 'b')),
        ('for i in x:\n    for p, q in zip(a.parameters(), b.parameters()):\n        q.copy_(p)  # here', ('a', 'b')),
        ('while x:\n    q.copy_(p)  # here', None),
        ('q.copy_(p)  # here', None),
        ('# here', None),
    ],
)  # fmt: skip
def test_networks_that_a_line_copies(text: str, networks: tuple[str, str] | None) -> None:
    assert networks_copied(*marked(text)) == networks


@each(
    ("text", "own"),
    [
        ('p.data = p.data.half()  # here', True),
        ('p.data = p.half()  # here', True),
        ('p.data = q.half()  # here', False),
        ('p.data = q[0].half()  # here', False),
        ('p[0].data = p[0].half()  # here', True),
        ('p.copy_(p.half())  # here', True),
        ('p.data.copy_(p.half())  # here', True),
        ('p.detach().copy_(p.half())  # here', True),
        ('p.copy_(q)  # here', False),
        ('p.half()  # here', False),
        ('p.data = 1  # here', False),
        ('# here', False),
    ],
)  # fmt: skip
def test_write_of_a_tensors_own_value(text: str, own: bool) -> None:
    assert copies_own_value(*marked(text)) is own
