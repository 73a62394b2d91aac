"""The founding cases: what gradlint says of each, and that two real training steps bear it out."""

from __future__ import annotations

from pathlib import Path

import pytest
import table
import torch
from cases import each
from proof import parts
from table import Builder

FOLDER = table.FIXTURES / "founding"
BUILDERS = {
    builder.name.removeprefix("build_") if builder.name != "build" else "f3c": builder
    for path in sorted(FOLDER.glob("*.py"))
    for builder in table.builders(path, "build")
}

EXPECTED = {
    "f0a": [("GL301", "optim.SGD(", "l1.weight l1.bias")],
    "f0b": [("GL401", "self.l1(x).detach()", "l1.weight l1.bias")],
    "f0c": [("GL101", "with torch.no_grad():", "l1.weight l1.bias")],
    "f0d": [("GL402", "with torch.no_grad():", "l1.weight l1.bias")],
    "f1": [("GL201", "param.requires_grad = False", None), ("GL202", "param.requires_grad = False", None)],
    "f2a": [],
    "f2b": [("GL301", "optim.SGD(", "fc1.weight fc1.bias")],
    "f2c": [("GL302", "optim.SGD(", "fc1.weight fc1.bias")],
    "f2d": [],
    "f3c": [("GL401", "h.detach()", "lin0.weight lin0.bias lin1.weight lin1.bias")],
    "f3d": [],
    "f3e": [("GL402", "with torch.no_grad():", "lin0.weight lin0.bias lin1.weight lin1.bias")],
    "f3a": [],
    "f3b": [],
    "f3f": [],
    "f3g": [("GL502", "self.netD(fake_AB)", "netG.0.weight netG.0.bias netG.2.weight netG.2.bias")],
    "f3h": [],
    "f3i": [("GL302", "optim.Adam(", "model_1.0.weight model_1.0.bias")],
    "f3j": [
        ("GL303", "model.model_1.parameters()", "model_1.0.weight model_1.0.bias"),
        ("GL303", "model.model_2.parameters()", "model_2.0.weight model_2.0.bias"),
    ],
    "f3k_whole": [],
    "f3k_first": [],
    "f3k_middle": [],
    "f3k_detach": [
        (
            "GL401",
            "h.detach()",
            " ".join(
                f"part_{part}.{layer}.{kind}" for part in (1, 2) for layer in (0, 2) for kind in ("weight", "bias")
            ),
        )
    ],
    "f4a": [],
    "f4b": [
        ("GL402", "with torch.no_grad():", "generator.0.weight generator.0.bias generator.2.weight generator.2.bias")
    ],
    "f4c": [
        ("GL702", "optim.Adam(model.parameters()", "encoder.0.weight encoder.0.bias encoder.2.weight encoder.2.bias")
    ],
}
"""Row → (code, a piece of the blamed line, the exact parameters)."""

STILL = {
    "f0a": "l1.",
    "f0b": "l1.",
    "f0c": "",
    "f0d": "l1.",
    "f2a": "",
    "f2b": "fc1.",
    "f2c": "fc1.",
    "f2d": "fc1.",
    "f3c": "lin0. lin1.",
    "f3d": "lin2.",
    "f3e": "lin0. lin1.",
    "f3h": "features.",
    "f3i": "model_1.",
    "f3j": "model_1. model_2.",
    "f4a": "encoder.",
    "f4b": "encoder. generator.",
    "f4c": "",
}
"""Row → the prefixes of the parameters that two steps leave where they are; all others move."""

ROWS = sorted(BUILDERS)


def line_text(location) -> str:
    """The source line that a location points at."""
    return Path(location.path).read_text(encoding="utf-8").splitlines()[location.line - 1]


def train(builder: Builder, steps: int = 2):
    """Train for some steps; the parts and the values before."""
    here = parts(builder.load()())
    before = {name: t.detach().clone() for name, t in (*here.parameters.items(), *here.model.named_buffers())}
    for _ in range(steps):
        for optimizer in here.optimizers:
            optimizer.zero_grad()
        here.loss(here.model(*here.inputs)).backward()
        for optimizer in here.optimizers:
            optimizer.step()
    return here, before


def test_every_row_has_a_builder():
    assert set(BUILDERS) == set(EXPECTED)


@each("row", ROWS)
def test_row_gives_what_it_announces_and_what_the_seed_gives(row):
    builder = BUILDERS[row]
    report = table.report(builder.target)
    wrong = list(table.differences(builder, report, list(parts(builder.load()()).parameters)))
    assert not wrong, "\n".join([*wrong, table.names_of(row, report)])
    found = [f for f in report.findings if str(f.severity) != "info"]
    assert [f.code for f in found] == [code for code, _, _ in EXPECTED[row]]
    for finding, (_, piece, names) in zip(found, EXPECTED[row], strict=True):
        assert piece in line_text(finding.location)
        assert names is None or list(finding.parameters) == names.split()


def related_lines(row: str) -> list[int]:
    """The lines of all related locations of a row's first finding."""
    return [r.location.line for r in table.report(BUILDERS[row].target).findings[0].related]


def line_of(row: str, piece: str) -> int:
    """The first line of a row's file that holds a piece of text."""
    lines = BUILDERS[row].path.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, 1) if piece in line)


def test_f0a_says_where_l1_was_frozen():
    assert line_of("f0a", "nn.Linear(3, 3).requires_grad_(False)") in related_lines("f0a")


def test_f2b_says_where_fc1_was_frozen():
    body = BUILDERS["f2b"]
    freeze = next(
        number
        for number, line in enumerate(body.path.read_text(encoding="utf-8").splitlines(), 1)
        if number > body.line and "param.requires_grad = False" in line
    )
    assert freeze in related_lines("f2b")


def test_f2b_says_that_the_optimizer_came_first():
    report = table.report(BUILDERS["f2b"].target)
    told = " ".join([report.findings[0].message, *(r.message for r in report.findings[0].related)]).lower()
    assert "after" in told or "before" in told or "later" in told


def test_f0c_says_that_l1_still_trains():
    message = table.report(BUILDERS["f0c"].target).findings[0].message.lower()
    assert "train" in message or "requires_grad" in message


def test_f4b_says_that_no_grad_is_no_freeze():
    finding = table.report(BUILDERS["f4b"].target).findings[0]
    assert "requires_grad_(False)" in finding.message + (finding.fix.description if finding.fix else "")


def test_f1_names_every_frozen_norm_and_no_other():
    builder = BUILDERS["f1"]
    here = parts(builder.load()())
    frozen = {name for name, p in here.parameters.items() if not p.requires_grad}
    (finding,) = [f for f in table.report(builder.target).findings if f.code == "GL201"]
    assert set(finding.parameters) == frozen


@each("row", sorted(STILL))
def test_two_real_steps_move_exactly_the_rest(row):
    here, before = train(BUILDERS[row])
    prefixes = tuple(STILL[row].split())
    still = {name for name in here.parameters if name.startswith(prefixes)}
    moved = {name for name, p in here.parameters.items() if not torch.equal(p.detach(), before[name])}
    assert moved == set(here.parameters) - still


def test_f1_two_real_steps_move_the_statistics_of_frozen_norms():
    here, before = train(BUILDERS["f1"])
    frozen = {name.rpartition(".")[0] for name, p in here.parameters.items() if not p.requires_grad}
    buffers = dict(here.model.named_buffers())
    assert all(not torch.equal(buffers[f"{name}.running_mean"], before[f"{name}.running_mean"]) for name in frozen)


def test_f1_the_name_misses_the_stem_and_every_shortcut():
    here, _ = train(BUILDERS["f1"], steps=0)
    norms = {name for name, m in here.model.named_modules() if isinstance(m, torch.nn.BatchNorm2d)}
    missed = {name for name in norms if here.parameters[f"{name}.weight"].requires_grad}
    assert missed == {name for name in norms if name == "convnet_1.1" or name.endswith("downsample.1")}


@pytest.mark.parametrize(("row", "gradient"), [("f3a", 56.0), ("f3b", 48.0)])
def test_two_backwards_by_hand_give_the_gradient_of_the_seed(row, gradient):
    assert BUILDERS[row].load()()["step"]().item() == gradient


def test_f3g_the_loss_of_the_critic_reaches_the_generator():
    setup = BUILDERS["f3g"].load()()
    deposits = []
    weight = setup["model"]["netG"][0].weight
    weight.register_post_accumulate_grad_hook(lambda p: deposits.append(p.grad.clone()))
    setup["step"]()
    assert len(deposits) == 2 and deposits[0].abs().sum() > 0 and not torch.equal(*deposits)
