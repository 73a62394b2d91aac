"""`gradlint why`: the state of a parameter, its history, its optimizer, its path to the loss and where that is cut."""

from __future__ import annotations

from pathlib import Path

import pytest
from cases import each

from gradlint.api.explain import Explanation, explain
from gradlint.errors import UsageError
from gradlint.report.view import View
from gradlint.report.why import render

ROOT = Path(__file__).resolve().parent.parent
FOUNDING = ROOT / "fixtures" / "founding"


def one(file: str, builder: str, pattern: str) -> Explanation:
    [found] = explain(f"{FOUNDING / file}:{builder}", pattern)
    return found


def steps(explanation: Explanation, title: str) -> list[str]:
    return [s.text for section in explanation.sections if section.title == title for s in section.steps]


def test_starved() -> None:
    found = one("detach_in_chain.py", "build", "lin0.weight")
    assert found.state.startswith("no gradient: ")
    assert found.about == "8x4, 32 parameters"
    assert steps(found, "history") == ["registered"]
    assert steps(found, "optimizer") == ["SGD, lr 0.05"]
    way = steps(found, "path to the loss")
    assert way[:2] == ["linear in lin0", "relu"] and way[-1] == "mean: the loss"
    assert way.count("detach: gradient stops here") == 1


def test_trains() -> None:
    found = one("detach_in_chain.py", "build", "lin3.weight")
    assert found.state == "trains: gradient reaches it"
    assert not any(step.important for section in found.sections for step in section.steps)


def test_not_held() -> None:
    found = one("two_layers.py", "build_f2c", "fc1.weight")
    assert found.state.startswith("not in an optimizer: gradient reaches it, and no optimizer")
    assert steps(found, "optimizer") == ["not in SGD"]


def test_frozen_library_model_is_told_in_few_lines() -> None:
    pytest.importorskip("transformers")
    target = f"{ROOT / 'fixtures' / 'real' / 'text.py'}:good_bert_frozen_encoder"
    [found] = explain(target, "bert.encoder.layer.0.attention.self.query.weight")
    assert found.state == "frozen: requires_grad is False"
    assert steps(found, "history") == ["registered", "frozen"]
    assert len(steps(found, "path to the loss")) <= 4


def test_the_way_taken_is_one_that_gradient_comes_back_by(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        "        h = super().forward(x)\n"
        "        side = h.detach().tanh()\n"
        "        return side + h.square()\n"
        "def build(): return {'model': Net(2, 2), 'inputs': (torch.ones(1, 2),)}\n"
    )
    [found] = explain(f"{tmp_path / 'm.py'}:build", "weight")
    assert steps(found, "path to the output") == ["linear", "square", "add: the output"]


@each(
    ("pattern", "hint"),
    [("lin0.weigth", "did you mean lin0.weight"), ("lin0", r"write 'lin0\.\*'"), ("zz", "there are")],
)
def test_no_match_says_what_there_is(pattern: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        explain(f"{FOUNDING / 'detach_in_chain.py'}:build", pattern)


@each("width", [40, 80])
def test_fits(width: int) -> None:
    found = explain(f"{FOUNDING / 'detach_in_chain.py'}:build", "*")
    text = render(found, View(width=width, root=ROOT))
    assert max(map(len, text.splitlines())) <= width
