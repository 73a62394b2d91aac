"""``gradlint run``: scripts that are interrupted, in new processes whose signals are Python's own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from script import run
from table import ROOT


def test_a_missing_torch_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no wheel fits')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "broken"), str(ROOT)]))
    done, report = run(tmp_path, "print('never reached')")
    [error] = report["errors"]
    assert done.returncode == 2 and "never reached" not in done.stderr and "Traceback" not in done.stderr
    assert "needs torch, which cannot be imported (no wheel fits)" in error["message"]


INTERRUPTIBLE = """
import atexit, os, signal, time, torch
atexit.register(lambda: open("at exit", "w"))
open("pid", "w").write(str(os.getpid()))
try:
    while True:
        open("alive", "w").close()
        time.sleep(0.1)
finally: open("finally", "w")
"""


STUBBORN = INTERRUPTIBLE.replace(
    "while", "for n in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, n), signal.SIG_IGN)\n    while"
)


def ended_by(folder: Path, script: str, *signals: int) -> tuple[int, set[str], bool]:
    """Run a script and send signals to gradlint: the exit code, the files that are left, whether the script lives."""
    (folder / "train.py").write_text(script, encoding="utf-8")
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen([sys.executable, "-m", "gradlint", "run", "train.py"], cwd=folder, env=environment)
    while not (folder / "alive").exists() and process.poll() is None:
        time.sleep(0.1)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.5)
    code = process.wait(60)
    pid = int((folder / "pid").read_text())
    deadline = time.monotonic() + 30
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = {path.name for path in folder.iterdir()} & {"finally", "at exit"}
    return code, left | {path.name for path in (folder / "tmp").iterdir()}, _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_script_is_interrupted_if_gradlint_is_told_to_end(tmp_path, name):
    ended = ended_by(tmp_path, INTERRUPTIBLE, getattr(signal, name))
    assert ended == (130, {"finally", "at exit"}, False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_script_is_interrupted_if_gradlint_is_killed(tmp_path):
    assert ended_by(tmp_path, INTERRUPTIBLE, signal.SIGKILL) == (-9, {"finally", "at exit"}, False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGINT", "SIGINT"], ["SIGTERM"]])
def test_a_script_that_ignores_signals_is_ended(tmp_path, signals):
    assert ended_by(tmp_path, STUBBORN, *(getattr(signal, name) for name in signals)) == (130, set(), False)


def test_a_script_without_a_model_is_interrupted_when_its_time_is_up(tmp_path):
    _, report = run(tmp_path, "", "--timeout", "1", head=INTERRUPTIBLE)
    assert report["errors"][0]["message"].startswith("no backward pass within 1 s, no call of a model: raise --timeout")
    assert (tmp_path / "finally").exists() and (tmp_path / "at exit").exists()
