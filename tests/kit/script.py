"""A small training script, and a way to have gradlint run it."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import processes
import pytest

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


def codes(report) -> list[str]:
    """The codes of the findings."""
    return [finding["code"] for finding in report["findings"]]


def mostly_slow(names):
    """Mark all cases but the first two as slow: each starts two processes."""
    names = list(names)
    return [*names[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in names[2:])]
