"""A small training script, and ways to have gradlint run it: as a command, or in this process."""

from __future__ import annotations

import contextlib
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import processes
import pytest

from gradlint import TargetError, Trace
from gradlint.recorder.ledger.enough import EnoughRecorded
from gradlint.recorder.observation import Observation
from gradlint.recorder.user_code import gradlint_runs_user_code

HEAD = """
import atexit, os, signal, subprocess, sys, threading, time
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
x, y = torch.randn(6, 4), torch.randn(6, 2)


def iteration(clear=True):
    if clear:
        optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
"""


def run(folder: Path, body: str, *options: str, after: tuple[str, ...] = (), head: str = HEAD):
    """Run a script; the process and the report."""
    script = folder / "train.py"
    script.write_text(head + textwrap.dedent(body), encoding="utf-8")
    done = processes.gradlint(["run", "--output-format", "json", *options, "train.py", *after], folder)
    return done, json.loads(done.stdout)


def recorded(target: str, steps: int, module: ModuleType, body: Callable[[], object]) -> Trace:
    """Record a function in this process, as the script whose main module is given.

    Raises:
        TargetError: the recorder failed, or the function never trained.
    """
    observation = Observation(target, steps=steps)
    traces: list[Trace] = []

    def stopping() -> bool:
        if observation.enough() and not traces:
            traces.append(observation.trace())  # while the script's variables are alive
        return bool(traces)

    def script() -> None:
        body()
        stopping()

    observation.ledger.stopping = stopping
    main = sys.modules["__main__"]
    sys.modules["__main__"] = module
    try:
        with observation:
            with contextlib.suppress(EnoughRecorded):
                gradlint_runs_user_code(script)
            if observation.recorder.fault is not None:
                raise TargetError(*observation.recorder.fault)
            if not observation.ledger.training.backwards and not observation.ledger.training.steps:
                raise TargetError("the script never trained")
            return traces[0] if traces else observation.trace()
    finally:
        sys.modules["__main__"] = main


def codes(report) -> list[str]:
    """The codes of the findings."""
    return [finding["code"] for finding in report["findings"]]


def mostly_slow(names):
    """Mark all cases but the first two as slow: each starts two processes."""
    names = list(names)
    return [*names[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in names[2:])]
