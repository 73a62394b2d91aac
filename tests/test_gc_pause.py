"""The garbage collector is the user's: nothing of what a recording asks of it is left."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest
import torch
from torch import nn

import gradlint
from gradlint.system import gc_pause, process_tree


def build():
    return {"model": nn.Linear(2, 1), "inputs": (torch.randn(3, 2),)}


def test_a_check_leaves_the_collector_as_it_was():
    def state():
        return gc.isenabled(), gc.get_threshold(), list(gc.callbacks), gc.get_freeze_count()

    before = state()
    gradlint.check(build)
    assert state() == before


@pytest.mark.slow
def test_the_command_line_inside_another_process_leaves_the_collector_as_it_was(tmp_path):
    code = """if True:
        import gc
        from gradlint.cli import main
        assert main(["check", "model.py:build"]) == 0
        print(gc.get_freeze_count() < 1000, gc.isenabled(), len(gc.callbacks))
    """
    setup = "from torch import nn, randn\ndef build():\n    return nn.Linear(2, 1), (randn(3, 2),)\n"
    (tmp_path / "model.py").write_text(setup, encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "True True 0"


def test_a_freeze_of_the_users_own_stays():
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        gradlint.check(build)
        assert gc.get_freeze_count() > 0.9 * frozen
    finally:
        gc.unfreeze()


@pytest.fixture
def own_process(monkeypatch: pytest.MonkeyPatch):
    """Take this process for one that gradlint has started."""
    monkeypatch.setattr(process_tree, "_is_own", True)
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("own_process")
def test_no_full_collection_while_libraries_are_imported():
    before = gc.get_threshold()
    with gc_pause.ImportsUnscanned() as imports:
        assert gc.get_threshold()[2] > 10_000 and gc.get_freeze_count() > 1000
        frozen = gc.get_freeze_count()
        kept = [[] for _ in range(100)]
        imports.end()
        assert gc.get_threshold() == before and gc.get_freeze_count() >= frozen + len(kept)
    assert gc.get_threshold() == before


@pytest.mark.usefixtures("own_process")
def test_a_threshold_of_the_users_own_stays():
    before = gc.get_threshold()
    try:
        with gc_pause.ImportsUnscanned():
            gc.set_threshold(5, 6, 7)
        assert gc.get_threshold() == (5, 6, 7)
    finally:
        gc.set_threshold(*before)
