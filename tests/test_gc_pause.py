"""The garbage collector is the user's: nothing of what a recording asks of it is left."""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn

import gradlint
from gradlint.gc_pause import gc_paused


def build():
    return {"model": nn.Linear(2, 1), "inputs": (torch.randn(3, 2),)}


def test_a_check_leaves_the_collector_as_it_was():
    before = gc.isenabled(), gc.get_threshold(), list(gc.callbacks)
    gradlint.check(build)
    assert (gc.isenabled(), gc.get_threshold(), list(gc.callbacks)) == before
    assert gc.get_freeze_count() < 1000


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
        gradlint.check(build)
        assert gc.get_freeze_count() > 1000
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("imports_done", [True, False])
def test_what_survives_a_collection_is_passed_over_while_things_are_imported(imports_done):
    with gc_paused(until=lambda: imports_done):
        module = nn.Linear(2, 1)
        module.itself = [module]  # a cycle
        gc.collect()
        freed = weakref.ref(module)
        del module
        gc.collect()
        assert (freed() is None) == imports_done
    gc.collect()
    assert freed() is None
