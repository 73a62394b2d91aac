"""BERT with LoRA: what each seeded mistake does to the contract, to the test and to the lock of the worked example."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tested_project import PLUGIN

import gradlint
from gradlint.config.settings import read as read_settings
from gradlint.lock.lockfile import read, render
from gradlint.lock.snapshot import changes
from gradlint.lock.take import snapshot_target

pytest_plugins = ["pytester"]
pytest.importorskip("transformers")
pytest.importorskip("peft")

FOLDER = Path(__file__).resolve().parent.parent / "fixtures" / "real" / "bert_lora"
TRAINS = "test_adapters_and_head_train"
FROZEN = "test_base_is_frozen"
FLOWS = "test_gradient_comes_to_the_lowest_adapters"
CLEAN = "test_everything_else_is_well"

EXPECTED: dict[str, tuple[list[str], list[str], list[str]]] = {
    "build": ([], [], []),
    "thawed": (
        ["GL702"],
        [FROZEN],
        [
            "(55 tensors, 16.2k parameters) started training: unfrozen after a freeze",
            "frozen no longer: unused",
        ],
    ),
    "optimizer_too_early": (
        ["GL701"],
        [TRAINS, CLEAN],
        [
            "(14 tensors, 819 parameters) stopped training: not in AdamW",
            "(57 tensors, 16.2k parameters) are now in AdamW lr=0.001",
        ],
    ),
    "head_not_kept": (
        ["GL703"],
        [TRAINS],
        [
            "classifier.* (2 tensors, 51 parameters) are new, frozen",
            "modules_to_save.* (2 tensors, 51 parameters) are gone, training before",
            "original_module.* (2 tensors, 51 parameters) are gone, frozen before",
        ],
    ),
    "under_no_grad": (
        ["GL701"],
        [TRAINS, FLOWS, CLEAN],
        ["(12 tensors, 768 parameters) stopped training: no_grad cuts the gradient path"],
    ),
    "config_for_inference": (
        ["GL701"],
        [TRAINS, FLOWS, CLEAN],
        [
            "(14 tensors, 819 parameters) stopped training: frozen",
            "(57 tensors, 16.2k parameters) are now in AdamW lr=0.001",
        ],
    ),
    "queries_alone": (
        [],
        [],
        [
            "(6 tensors, 816 parameters) are new, frozen",
            "(6 tensors, 816 parameters) are gone, frozen before",
            "(6 tensors, 384 parameters) are gone, training before",
        ],
    ),
}
"""Builder → (codes of the contract, tests that fail, words of the lock, in order)."""
BUILDERS = list(EXPECTED)
QUICK = ("build", "under_no_grad")
"""The right builder, and the mistake that breaks most of the example's tests."""
SOME = [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in BUILDERS]


def blamed(builder: str) -> int | None:
    """The line that the example marks as the mistake's."""
    lines = (FOLDER / "model.py").read_text(encoding="utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if line.endswith(f"# blamed: {builder}")), None)


@pytest.mark.parametrize("builder", SOME)
def test_contract(builder: str) -> None:
    declared = read_settings(FOLDER / "pyproject.toml").targets["model.py:build"]
    target = f"{FOLDER / 'model.py'}:{builder}"
    report = gradlint.check(target, select=["GL7"], trains=declared.trains, frozen=declared.frozen)
    assert not report.errors and [f.code for f in report.findings] == EXPECTED[builder][0]
    places = [place for f in report.findings for place in (f.location, *(r.location for r in f.related)) if place]
    line = blamed(builder)
    assert line is None or line in [p.line for p in places if Path(p.path) == FOLDER / "model.py"]


@pytest.mark.parametrize("builder", SOME)
def test_test(builder: str, inner: pytest.Pytester) -> None:
    for name in ("model.py", "test_model.py", "pyproject.toml"):
        shutil.copy(FOLDER / name, inner.path)
    test = inner.path / "test_model.py"
    test.write_text(
        test.read_text(encoding="utf-8").replace('"model.py:build"', f'"model.py:{builder}"'), encoding="utf-8"
    )
    done = inner.inline_run(*PLUGIN, "-p", "no:randomly", "-p", "no:hypothesispytest", "-W", "ignore::FutureWarning")
    failed = [report.nodeid.rpartition("::")[2] for report in done.getreports() if report.failed]
    assert failed == [name for name in (TRAINS, FROZEN, FLOWS, CLEAN) if name in EXPECTED[builder][1]]


@pytest.mark.parametrize("builder", SOME)
def test_lock(builder: str) -> None:
    locked = read(FOLDER / "gradlint.lock")["model.py:build"]
    now, _ = snapshot_target(f"{FOLDER / 'model.py'}:{builder}")
    texts = [change.text for change in changes(locked, now)]
    assert len(texts) == len(EXPECTED[builder][2])
    assert [said for said, text in zip(EXPECTED[builder][2], texts, strict=True) if said not in text] == []


def test_lock_is_as_it_would_be_written() -> None:
    now, _ = snapshot_target(f"{FOLDER / 'model.py'}:build", name="model.py:build")
    assert (FOLDER / "gradlint.lock").read_text(encoding="utf-8") == render([now])


def test_there_are_six_mistakes_and_each_is_told_of() -> None:
    rows = [line for line in (FOLDER / "model.py").read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert len(BUILDERS) == 7 and len(rows) == 7
