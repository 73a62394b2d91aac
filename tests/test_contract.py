"""Contracts: which declaration counts, where it is written, what cannot be told, and what is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from torch import nn

import gradlint
from gradlint import cli

ROOT = Path(__file__).resolve().parent.parent
CYCLE = f"{ROOT / 'fixtures' / 'founding' / 'encoder_generator.py'}"


ENCODER = ["encoder.0.bias", "encoder.0.weight", "encoder.2.bias", "encoder.2.weight"]
STATISTICS = ["encoder.1.running_mean", "encoder.1.running_var"]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, affine=False), nn.Linear(8, 8))
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.head(self.encoder(x))
        return out


def build() -> dict[str, Any]:
    model = Net()
    return {
        "model": model,
        "inputs": (torch.randn(3, 4),),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }


def codes(setup: Any, **declared: Any) -> list[tuple[str, str]]:
    """(code, message) of each contract finding."""
    report = gradlint.check(setup, select=["GL7"], show_info=True, **declared)
    assert not report.errors, report.errors
    return [(f.code, f.message) for f in report.findings]


@each(
    ("trains", "frozen", "expected"),
    [
        ("*", (), []),
        ("head.*", "encoder.0.*", ["encoder.0.bias", "encoder.0.weight"]),
        ("head.*", "*", [*ENCODER[:2], *STATISTICS, *ENCODER[2:]]),
        (["encoder.*"], ["encoder.2.*"], ENCODER[2:]),
        (["encoder.*", "encoder.2.bias"], ["encoder.2.*"], ["encoder.2.weight"]),
        (["encoder.2.bias"], ["encoder.2.*", "encoder.2.weight"], ["encoder.2.weight"]),
        ((), "encoder.1.running_mean", []),
        ((), "encoder.1.running_*", STATISTICS),
        ((), "encoder.1.*", STATISTICS),
    ],
)
def test_the_narrower_declaration_counts(trains: Any, frozen: Any, expected: list[str]) -> None:
    report = gradlint.check(build, select=["GL7"], trains=trains, frozen=frozen)
    assert sorted(name for finding in report.findings for name in finding.parameters) == expected


@each(
    ("trains", "frozen"),
    [("encoder.*", "encoder.*"), ("*.weight", "encoder.*"), (["head.*", "*"], ["*", "head.bias"])],
)
def test_contradiction_names_both_and_what_they_share(trains: Any, frozen: Any) -> None:
    [failure] = gradlint.check(build, trains=trains, frozen=frozen).errors
    assert "the contract contradicts itself: trains" in failure.message or "itself: frozen" in failure.message
    assert " both name " in failure.message and "exception" in failure.message


def test_contradiction_in_the_set_up_names_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\n\n\ndef build():\n    return {\n        'model': torch.nn.Linear(2, 2),\n"
        "        'trains': ['weight'],\n        'frozen': ['weight', 'bias'],\n    }\n",
        encoding="utf-8",
    )
    assert cli.main(["check", f"{tmp_path / 'm.py'}:build"]) == 2
    said = "".join(capsys.readouterr().out.split())
    assert f"{tmp_path / 'm.py'}:7" in said and f"{tmp_path / 'm.py'}:8" in said


def test_configuration_is_held_and_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.py").write_text(
        "import torch\n\n\ndef build():\n    return torch.nn.Linear(2, 2)\n", encoding="utf-8"
    )
    (tmp_path / "pyproject.toml").write_text(
        "[tool.gradlint]\n# 'wieght'\n[tool.gradlint.targets.'m.py:other']\ntrains = ['wieght']\n"
        "[tool.gradlint.targets.'m.py:build']\ntrains = [\n  'bias',\n  'wieght',\n]\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "m.py:build", "--output-format", "concise"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("pyproject.toml:8:3: GL703 no parameter matches 'wieght', declared trainable:")
    assert "did you mean weight?" in out


def test_options_add_to_what_the_set_up_declares(capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{CYCLE}:build_f4c"
    assert cli.main(["check", target, "--trains", "generator.*", "--frozen", "scale", "--output-format=concise"]) == 1
    out = capsys.readouterr().out
    assert "GL702 encoder.* (4 tensors, 160 parameters)" in out and "'scale', declared frozen in --frozen" in out
    assert "GL701" not in out


def test_way_of_the_gradient_is_related() -> None:
    [finding] = gradlint.check(f"{CYCLE}:build_f4c").findings
    lines = [Path(r.location.path).read_text().splitlines()[r.location.line - 1].strip() for r in finding.related]
    assert "return self.encoder(self.generator(code)), code" in lines
    assert '"loss": lambda out: F.mse_loss(out[0], out[1]),' in lines


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": None, "step": print}, "the training setup has a step but no loss"),
        (
            {"model": {"net": Net()}, "inputs": {}, "optimizer": None, "step": print},
            "the training setup has a step but no loss",
        ),
    ],
)
@pytest.mark.parametrize(
    ("trains", "are", "they"), [("*head.*", "are", "they train"), ("*head.bias", "is", "it trains")]
)
def test_what_cannot_be_told_is_said_and_no_error(
    change: dict[str, Any], said: str, trains: str, are: str, they: str
) -> None:
    model = change.get("model", {}).get("net") or Net()
    setup = {**build(), "model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), **change}
    report = gradlint.check(setup, select=["GL701", "GL702"], trains=trains, show_info=True)
    [finding] = report.findings
    assert finding.severity is gradlint.Severity.INFO
    assert f" {are} declared trainable" in finding.message
    assert f"this recording does not show whether {they}: {said}" in finding.message


def test_what_cannot_be_told_of_frozen_parameters_is_said_where_an_optimizer_could_move_them() -> None:
    def told(setup: Any) -> list[tuple[str, str]]:
        report = gradlint.check(setup, select=["GL7"], show_info=True, frozen="head.*")
        assert [failure.message.split(":")[0] for failure in report.errors] == ["step() ran no backward pass"]
        return [(finding.code, finding.message) for finding in report.findings]

    unjudged = {**build(), "step": print}
    [(code, message)] = told(unjudged)
    assert code == "GL702" and "this recording does not decide" in message
    assert told({**unjudged, "optimizer": None}) == []
    unjudged["model"].head.requires_grad_(False)
    assert told(unjudged) == []


def test_statistics_that_move_are_named_by_the_parameters_of_their_norm() -> None:
    model = Net()
    model.encoder[1] = nn.BatchNorm1d(8)
    model.encoder.requires_grad_(False)
    setup = {**build(), "model": model, "optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}
    [finding] = gradlint.check(setup, select=["GL702"], frozen="encoder.*").findings
    assert finding.parameters == ("encoder.1.weight", "encoder.1.bias")


def test_no_origin_is_told_of_what_the_call_declares() -> None:
    [(_, message)] = codes(build(), trains="neck.*")
    assert message.startswith("no parameter matches 'neck.*', declared trainable: ")


def test_a_frozen_parameter_is_told_even_without_a_loss() -> None:
    setup = {**build(), "step": print}
    setup["model"].head.requires_grad_(False)
    [(code, message)] = codes(setup, trains="head.*")
    assert code == "GL701" and "but frozen" in message


def test_gradient_without_an_optimizer_that_applies_it_moves_nothing() -> None:
    model = Net()
    setup = {**build(), "model": model, "optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}
    assert codes(setup, frozen=["encoder.0.*", "encoder.2.*"]) == []


def test_contract_is_not_judged_where_none_is_declared() -> None:
    skipped = {s.code: s.reason for s in gradlint.check(build).skipped}
    assert all(skipped[code] == "nothing is declared to train or to be frozen" for code in ("GL701", "GL702", "GL703"))


def distilled(**declared: Any) -> dict[str, Any]:
    student, teacher = Net(), Net().eval().requires_grad_(False)
    return {
        "model": {"student": student, "teacher": teacher},
        "inputs": {"student": (torch.ones(3, 4),), "teacher": (torch.ones(3, 4),)},
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
        "loss": lambda out: (out["student"] - out["teacher"]).pow(2).mean(),
        **declared,
    }


def test_teacher_in_eval_mode_beside_a_student_keeps_its_statistics() -> None:
    assert gradlint.check(lambda: distilled(trains=["student.*"], frozen=["teacher.*"])).findings == []
    found = codes(lambda: distilled(train=True), trains=["student.*"], frozen=["teacher.*"])
    assert [code for code, _ in found] == ["GL702"] and "teacher.encoder.1" in found[0][1]


def test_clean_verdict_says_what_the_contract_names(capsys: pytest.CaptureFixture[str]) -> None:
    target = f"{CYCLE}:build_f4a"
    assert (
        cli.main(["check", target, "--frozen", "encoder.*", "--trains", "generator.2.*", "--output-format=concise"])
        == 0
    )
    assert "Adam holds 4; declared: 2 to train, 4 frozen" in capsys.readouterr().err


class Gan:
    """Two networks that are trained in turns, by a step that freezes the one while the other is trained."""

    def __init__(self) -> None:
        self.nets = {"generator": nn.Linear(4, 6), "critic": nn.Linear(6, 1)}
        self.optimizers = {name: torch.optim.Adam(net.parameters(), lr=1e-3) for name, net in self.nets.items()}

    def step(self) -> None:
        for name in self.nets:
            for other, net in self.nets.items():
                net.requires_grad_(other == name)
            self.optimizers[name].zero_grad()
            self.nets["critic"](self.nets["generator"](torch.randn(3, 4))).mean().backward()
            self.optimizers[name].step()

    def setup(self) -> dict[str, Any]:
        return {"model": self.nets, "optimizer": self.optimizers, "step": self.step}


def test_recorded_steps_tell_what_trains_in_turns() -> None:
    assert codes(lambda: Gan().setup(), trains=["generator.*", "critic.*"]) == []
    found = codes(lambda: Gan().setup(), frozen=["critic.*"])
    assert [code for code, _ in found] == ["GL702"] and "critic.* (2 tensors, 7 parameters)" in found[0][1]
