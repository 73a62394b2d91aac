"""`gradlint cost`: its numbers against a plain training step, its text and JSON, and what it leaves as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import each
from click.testing import CliRunner
from cost_truth import Truth, measure_builder

from gradlint.api.costs import cost_of
from gradlint.cli.app import app
from gradlint.errors import TargetError
from gradlint.flow.cost import Cost, Costs, Measured
from gradlint.report import cost_comparison
from gradlint.report.cost import as_json, render
from gradlint.report.view import View, cells

ROOT = Path(__file__).resolve().parent.parent
FOUNDING = ROOT / "fixtures" / "founding"
MODELS = ROOT / "tests" / "kit" / "cost_models.py"


def agrees(path: Path, name: str) -> Cost:
    """Return the measured costs; fail unless they are those of a plain step."""
    total = cost_of(f"{path}:{name}").measured.total
    assert Truth.said(total) == measure_builder(path, name)
    return total


@each("name", ["lstm", "vit_like"])
def test_a_model_costs_what_a_plain_step_does(name: str) -> None:
    agrees(MODELS, f"build_{name}")


@pytest.mark.slow
@each("name", ["resnet_like", "unet_like", "rmsprop"])
def test_more_models_cost_what_a_plain_step_does(name: str) -> None:
    agrees(MODELS, f"build_{name}")


def test_a_checkpointed_part_is_run_again_in_the_backward() -> None:
    total = agrees(MODELS, "build_checkpointed")
    assert total.weight_gradient_flops == total.forward_flops


@pytest.mark.slow
@each("name", ["bert", "gpt2"])
def test_a_language_model_costs_what_a_plain_step_does(name: str) -> None:
    agrees(MODELS, f"build_{name}")


@pytest.mark.slow
@each(
    ("file", "row", "expected"),
    [
        ("two_layers", "f2b", Cost(412, 132, 0, 420, 1440, 0, 480)),
        ("two_layers", "f2c", Cost(412, 412, 0, 420, 1440, 480, 1440)),
        ("two_layers", "f2d", Cost(412, 132, 0, 420, 1440, 0, 480)),
        ("memory", "f3k_whole", Cost(5200, 5200, 10448, 11264, 77824, 69632, 77824)),
        ("memory", "f3k_first", Cost(5200, 3536, 7104, 9216, 77824, 36864, 53248)),
        ("memory", "f3k_middle", Cost(5200, 3024, 6080, 11264, 77824, 69632, 45056)),
        ("memory", "f3k_detach", Cost(5200, 1360, 2736, 5120, 77824, 4096, 20480)),
    ],
)
def test_founding_case_costs(file: str, row: str, expected: Cost) -> None:
    path = FOUNDING / f"{file}.py"
    assert agrees(path, f"build_{row}") == expected


def test_freezing_saves_what_the_frozen_setup_lacks() -> None:
    whole, frozen = (cost_of(f"{FOUNDING / 'two_layers.py'}:build_{name}") for name in ("f2c", "f2d"))
    [saving] = whole.savings
    assert saving.saved == whole.measured.total - frozen.measured.total and saving.parameters == (
        "fc1.weight",
        "fc1.bias",
    )


def test_a_saving_names_the_finding_whose_fix_it_is() -> None:
    [saving] = cost_of(f"{FOUNDING / 'two_layers.py'}:build_f2c").savings
    assert saving.finding is not None and saving.finding.code == "GL302"


def test_findings_hold_what_was_measured() -> None:
    target = f"{FOUNDING / 'parts_and_groups.py'}:build_f3j"
    arguments = ["check", target, "--select", "GL303", "--output-format", "json"]
    plain, measured = (
        json.loads(CliRunner().invoke(app, [*arguments, *more], standalone_mode=False).stdout)["findings"]
        for more in ([], ["--cost"])
    )
    assert [finding["saving"] for finding in plain] == [None, None]
    assert [finding["saving"] for finding in measured] == [
        {"activations": 0, "gradients": 224, "optimizer": 0, "flops": 1792},
        {"activations": 0, "gradients": 288, "optimizer": 0, "flops": 1024},
    ]


def test_savings_come_largest_first() -> None:
    saved = [s.saved.bytes for s in cost_of(f"{FOUNDING / 'parts_and_groups.py'}:build_f3j").savings]
    assert len(saved) == 2 and saved == sorted(saved, reverse=True)


def test_a_step_that_computes_its_loss_costs_what_forward_and_loss_do() -> None:
    assert cost_of(f"{MODELS}:build_step").measured.total == Cost(412, 412, 840, 420, 1440, 480, 1440)


MODEL = """
import torch
from torch import nn
model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
optimizer = torch.optim.Adam(model.parameters())
def build():
    return {"model": model, "inputs": (torch.ones(2, 4),), "optimizer": optimizer, "loss": lambda out: out.mean()}
"""


@pytest.fixture
def target(tmp_path: Path) -> str:
    (tmp_path / "m.py").write_text(MODEL)
    return f"{tmp_path / 'm.py'}:build"


def test_activations_grow_with_the_batch(target: str) -> None:
    small, large = (cost_of(target, batch=batch).measured.total for batch in (2, 6))
    assert large.forward_flops == 3 * small.forward_flops and large.activations > 2 * small.activations
    assert large.optimizer == small.optimizer


def test_a_batch_that_targets_do_not_follow_says_so() -> None:
    with pytest.raises(TargetError, match="--batch repeats the inputs alone"):
        cost_of(f"{FOUNDING / 'two_layers.py'}:build_f2a", batch=3)


def test_a_batch_of_a_step_says_so() -> None:
    with pytest.raises(TargetError, match="made elsewhere"):
        cost_of(f"{MODELS}:build_step", batch=3)


def test_the_setup_stays_as_it_was(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import gradlint.load.buildable as buildable

    seen: list[Any] = []
    opened = buildable.TargetOnDisk.open

    def keep(self: Any, *args: Any) -> Any:
        made = opened(self, *args)
        seen.append((made, [t.clone() for t in made["model"].state_dict().values()]))
        return made

    monkeypatch.setattr(buildable.TargetOnDisk, "open", keep)
    cost_of(target)
    [(made, before)] = seen
    assert all(map(torch.equal, made["model"].state_dict().values(), before))
    assert not made["optimizer"].state and all(p.grad is None for p in made["model"].parameters())


def costs(names: dict[str, Cost]) -> Costs:
    """A report about modules of these names."""
    return Costs("m.py:build", "none", "given", (), dict.fromkeys(names, "Linear"), Measured(names, Cost()))


def test_numbered_neighbours_of_one_cost_are_one_row() -> None:
    names = {"": Cost(), "layer": Cost(), **{f"layer.{i}": Cost(parameters=8) for i in range(12)}}
    text = render(costs(names), View())
    assert "0–11 (12 alike)" in text and "96B" in text and "layer.1" not in text


@each("depth, shown", [(0, ["(the model)"]), (1, ["(the model)", "a"]), (2, ["(the model)", "a", "b"])])
def test_depth_bounds_the_tree(depth: int, shown: list[str]) -> None:
    text = render(costs({"": Cost(), "a": Cost(1), "a.b": Cost(2)}), View(), depth)
    rows = text.split("bwd-w\n")[1].split("  K, M")[0].splitlines()
    assert [row.rsplit(maxsplit=7)[0].strip() for row in rows] == shown


def test_hostile_names_stay_in_their_line() -> None:
    name = "\x1b[31m\u202eab\n" + "x" * 200
    text = render(costs({"": Cost(), name: Cost(5)}), View())
    assert "\x1b" not in text and "\u202e" not in text and max(map(cells, text.splitlines())) <= 80


def test_json_has_modules_with_and_without_what_is_in_them() -> None:
    document = json.loads(as_json(costs({"": Cost(), "a": Cost(1), "a.b": Cost(2)})))
    assert [(m["name"], m["own"]["parameters"], m["total"]["parameters"]) for m in document["modules"]] == [
        ("", 0, 3),
        ("a", 1, 3),
        ("a.b", 2, 2),
    ]


def test_the_command_writes_the_total(target: str) -> None:
    result = CliRunner().invoke(app, ["cost", target, "--output-format", "json"], standalone_mode=False)
    assert json.loads(result.stdout)["total"]["parameters"] == 164


# -- two targets ------------------------------------------------------------------------------------------------------


def test_a_comparison_shows_the_modules_that_differ() -> None:
    before = costs({"": Cost(), "same": Cost(7), "more": Cost(parameters=2048), "gone": Cost(gradients=4)})
    after = costs({"": Cost(), "same": Cost(7), "more": Cost(parameters=4096), "new": Cost(activations=5)})
    text = cost_comparison.render(before, after, View())
    rows = {row.split()[0]: row.split()[1:] for row in text.split("bwd-w\n")[1].split("  K, M")[0].splitlines()}
    assert rows["more"][0] == "+2.0K" and rows["gone"][1] == "-4B" and rows["new"][3] == "+5B" and "same" not in rows
    assert max(map(cells, text.splitlines())) <= 80


def test_a_comparison_of_equal_costs_says_so() -> None:
    same = costs({"": Cost(), "a": Cost(7)})
    assert "Both cost the same" in cost_comparison.render(same, same, View())


def test_the_command_compares_two_targets() -> None:
    whole, detached = (f"{FOUNDING / 'memory.py'}:build_f3k_{name}" for name in ("whole", "detach"))
    arguments = ["cost", "--compare", whole, detached, "--output-format", "json"]
    document = json.loads(CliRunner().invoke(app, arguments, standalone_mode=False).stdout)
    assert (document["a"]["target"], document["b"]["target"]) == (whole, detached)
    assert (document["difference"]["activations"], document["difference"]["optimizer"]) == (5120 - 11264, 2736 - 10448)


def test_a_comparison_with_what_cannot_be_measured_fails(target: str) -> None:
    result = CliRunner().invoke(app, ["cost", "--compare", "gone.py:build", target], standalone_mode=False)
    assert (result.return_value, result.stdout) == (2, "")
