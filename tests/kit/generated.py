"""Generates training programs as source text: a model, its loss, its optimizers, its step, and a script around them.

A program is a list of statements of a forward. Every value has two rows of four numbers, so that each statement can
take the results of any earlier one.
"""

# ruff: noqa: E501 (a statement is easier to read on one line)
from __future__ import annotations

import random
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from generated_templates import HEAD, HELPERS, LAYERS, TEMPLATES


@dataclass(frozen=True)
class Statement:
    """One statement of a forward."""

    template: str
    number: int
    a: int
    """Number of the statement whose result is its first operand; -1 for the input."""
    b: int
    layer: str = "linear"
    frozen: bool = False
    method: bool = False
    """True if it stands in a method of its own."""


@dataclass(frozen=True)
class Program:
    """A generated training program."""

    statements: tuple[Statement, ...]
    out: str = "last"
    """What the head reads: the last value, or ``all`` of them."""
    optimizer: str = "all"
    """``all`` parameters, ``none``, all but the ``part`` of one layer, a layer at rate ``zero``, or ``two`` optimizers."""
    kind: str = "SGD"
    loss: str = "square"
    step: str = "plain"

    @property
    def is_correct(self) -> bool:
        """True if every parameter trains and nothing is to be reported."""
        whole = self.out == "all" and self.optimizer in ("all", "two") and self.loss != "detached"
        return whole and all(TEMPLATES[s.template].trains and not s.frozen for s in self.statements)

    @property
    def source(self) -> str:
        """Its text."""
        return _text(self)


LOSSES = {
    "square": "return out.square().sum()",
    "mse": "return F.mse_loss(out, torch.ones(2, 1))",
    "terms": "first = out.square().mean()\nsecond = out.abs().mean()\nreturn first + 0.1 * second",
    "detached": "return out.square().sum() + out.detach().abs().mean()",
    "list": "losses = [out.square().mean(), out.abs().mean()]\nreturn torch.stack(losses).sum()",
}

STEPS = {
    "plain": "CLEAR\nloss = loss_of(model(x))\nloss.backward()\nSTEP",
    "late": "loss = loss_of(model(x))\nCLEAR\nloss.backward()\nSTEP",
    "after": "loss = loss_of(model(x))\nloss.backward()\nSTEP\nCLEAR",
    "autograd": "CLEAR\ntorch.autograd.backward(loss_of(model(x)))\nSTEP",
    "clipped": "CLEAR\nloss = loss_of(model(x))\nloss.backward()\nnn.utils.clip_grad_norm_(model.parameters(), 1.0)\nSTEP",
    "accumulated": "CLEAR\nfor part in (x, x + 1):\n    (loss_of(model(part)) / 2).backward()\nSTEP",
    "logged": "CLEAR\nloss = loss_of(model(x))\nloss.backward()\nSTEP\nHISTORY.append(loss.item())",
    "enabled": "CLEAR\nwith torch.enable_grad():\n    loss = loss_of(model(x))\nloss.backward()\nSTEP",
}


def _text(program: Program) -> str:
    used = "".join(
        [TEMPLATES[s.template].lines + LAYERS[s.layer] for s in program.statements],
    )
    helpers = [textwrap.dedent(text) for name, text in HELPERS.items() if f"{name}(" in used or f"{name}." in used]
    init: list[str] = []
    forward: list[str] = []
    methods: list[str] = []
    for s in program.statements:
        template = TEMPLATES[s.template]
        values = {
            "o": f"v{s.number}",
            "a": f"v{s.a}" if s.a >= 0 else "x",
            "b": f"v{s.b}" if s.b >= 0 else "x",
            "l": f"self.l{s.number}",
            "n": str(s.number),
        }
        init.append(f"self.l{s.number} = {LAYERS[s.layer]}")
        init += template.init.format(**values).splitlines()
        if s.frozen:
            init.append(f"self.l{s.number}.requires_grad_(False)")
        lines = template.lines.format(**values).splitlines()
        if s.method:
            operands = list(dict.fromkeys((values["a"], values["b"])))
            methods += ["", f"def part{s.number}(self, {', '.join(operands)}):"]
            methods += [f"    {line}" for line in [*lines, f"return {values['o']}"]]
            forward.append(f"{values['o']} = self.part{s.number}({', '.join(operands)})")
        else:
            forward += lines
    numbers = [s.number for s in program.statements]
    read = f"v{numbers[-1]}" if program.out == "last" else " + ".join(f"v{n}" for n in numbers)
    forward.append(f"return self.head({read})")
    body = [
        "def __init__(self):",
        "    super().__init__()",
        *(f"    {line}" for line in init),
        "    self.head = nn.Linear(4, 1)",
        "",
        "def forward(self, x):",
        *(f"    {line}" for line in forward),
        *methods,
    ]
    return "\n".join(
        [
            HEAD,
            *helpers,
            "\nclass Net(nn.Module):",
            *(f"    {line}".rstrip() for line in body),
            "\n\ndef loss_of(out):",
            textwrap.indent(LOSSES[program.loss], "    "),
            "\n\ndef optimizers_of(model):",
            textwrap.indent("\n".join(_optimizers(program)), "    "),
            "\n\nHISTORY = []\n\n\ndef train_step(model, optimizers, x):",
            textwrap.indent(_step(program), "    "),
            FOOT,
        ]
    )


FOOT = """

def build():
    torch.manual_seed(0)
    model = Net()
    return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizers_of(model), "loss": loss_of}


def build_step():
    made = build()
    model, optimizers, (x,) = made["model"], made["optimizer"], made["inputs"]
    step = lambda: train_step(model, optimizers, x)
    return {"model": model, "optimizer": optimizers, "step": step}


if __name__ == "__main__":
    torch.manual_seed(0)
    model = Net()
    x = torch.randn(2, 4)
    optimizers = optimizers_of(model)
    for _ in range(4):
        train_step(model, optimizers, x)
"""


def _optimizers(program: Program) -> list[str]:
    make = f"torch.optim.{program.kind}"
    first = program.statements[0].number
    match program.optimizer:
        case "none":
            return ["return {}"]
        case "part":
            return [f"held = [p for n, p in model.named_parameters() if not n.startswith('l{first}.')]",
                    f"return {{'main': {make}(held, lr=0.01)}}"]  # fmt: skip
        case "zero":
            return [f"still = [p for n, p in model.named_parameters() if n.startswith('l{first}.')]",
                    f"rest = [p for n, p in model.named_parameters() if not n.startswith('l{first}.')]",
                    f"return {{'main': {make}([{{'params': rest}}, {{'params': still, 'lr': 0.0}}], lr=0.01)}}"]  # fmt: skip
        case "two":
            return ["head = list(model.head.parameters())",
                    "rest = [p for n, p in model.named_parameters() if not n.startswith('head.')]",
                    f"return {{'body': {make}(rest, lr=0.01), 'head': {make}(head, lr=0.02)}}"]  # fmt: skip
    return [f"return {{'main': {make}(model.parameters(), lr=0.01)}}"]


def _step(program: Program) -> str:
    each = "for optimizer in optimizers.values():\n    optimizer"
    clear = f"{each}.zero_grad()" if program.optimizer != "none" else "model.zero_grad()"
    return STEPS[program.step].replace("CLEAR", clear).replace("STEP", f"{each}.step()")


def program(seed: int) -> Program:
    """Return the program of a seed: one in three is correct."""
    dice = random.Random(seed)
    correct = seed % 3 == 0
    names = [n for n, t in TEMPLATES.items() if t.trains or not correct]
    statements: list[Statement] = []
    for number in range(dice.randint(1, 6)):
        template = TEMPLATES[dice.choice(names)]
        near = [max(-1, number - 1 - int(dice.expovariate(1))) for _ in "ab"]
        layer = template.needs or dice.choice(list(LAYERS))
        frozen = not correct and template.name != "toggled" and dice.random() < 0.05
        statements.append(Statement(template.name, number, *near, layer, frozen, dice.random() < 0.2))
    if correct:
        return Program(
            tuple(statements), "all", dice.choice(("all", "all", "two")), dice.choice(("SGD", "Adam", "AdamW")),
            dice.choice([n for n in LOSSES if n != "detached"]), dice.choice(list(STEPS)),
        )  # fmt: skip
    return Program(
        tuple(statements), dice.choice(("last", "last", "all")),
        dice.choice(("all",) * 6 + ("none", "part", "zero", "two")), dice.choice(("SGD", "Adam")),
        dice.choice(list(LOSSES)), dice.choice(list(STEPS)),
    )  # fmt: skip


def smaller(program: Program) -> Iterator[Program]:
    """Yield the programs that are one change simpler."""
    statements = program.statements
    for gone in statements:
        if len(statements) > 1:
            rest = [s for s in statements if s is not gone]
            ends = {gone.number: gone.b if gone.b >= 0 else gone.a}
            yield replace(program, statements=tuple(_moved(rest, ends)))
    for s in statements:
        for change in _simpler(s):
            yield replace(program, statements=tuple(change if t is s else t for t in statements))
    plain = Program(())
    for name in ("out", "optimizer", "kind", "loss", "step"):
        if getattr(program, name) != getattr(plain, name):
            yield replace(program, **{name: getattr(plain, name)})


def _moved(statements: Sequence[Statement], ends: dict[int, int]) -> Iterator[Statement]:
    for s in statements:
        yield replace(s, a=ends.get(s.a, s.a), b=ends.get(s.b, s.b))


def _simpler(s: Statement) -> Iterator[Statement]:
    if s.method:
        yield replace(s, method=False)
    if s.frozen:
        yield replace(s, frozen=False)
    if s.layer != (TEMPLATES[s.template].needs or "linear"):
        yield replace(s, layer=TEMPLATES[s.template].needs or "linear")
    if s.a != -1:
        yield replace(s, a=-1)
    if s.b != -1:
        yield replace(s, b=-1)
    if s.template not in ("layer", "residual"):
        yield replace(s, template="layer", layer="linear")
