"""``gradlint run``: what its parts do by themselves, without a process."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from table import ROOT

import gradlint
from gradlint.cli.script_command import split
from gradlint.load.crash import traceback_of_crash
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.recorder.patience import Patience
from gradlint.rulekit import registry
from gradlint.runner import child
from gradlint.runner.job import Job, discard


def test_rules_of_a_checkout_are_no_files_of_the_user():
    registry.load(packs=False)
    job, trace = SimpleNamespace(exclude=(), root=str(ROOT)), SimpleNamespace(executed=())
    files = set(map(Path, child._project_files(job, trace)))
    assert Path(__file__) in files and not [path for path in files if path.parent == ROOT / "rules"]


SPLITS = {
    "train.py --lr 1 -h": ([], ["train.py", "--lr", "1", "-h"]),
    "--steps 5 train.py --steps 7": (["--steps", "5"], ["train.py", "--steps", "7"]),
    "-q --steps=5 train.py": (["-q", "--steps=5"], ["train.py"]),
    "train.py -- --lr 1": ([], ["train.py", "--lr", "1"]),
    "train.py -- -- --lr 1": ([], ["train.py", "--", "--lr", "1"]),
    "train.py x -- y": ([], ["train.py", "x", "--", "y"]),
    "-- -train.py -v": ([], ["-train.py", "-v"]),
    "-m package.train --lr 1": (["-m", "package.train"], ["--lr", "1"]),
    "-m package.train -- --lr 1": (["-m", "package.train"], ["--lr", "1"]),
    "-qmpackage.train -m x": (["-qmpackage.train"], ["-m", "x"]),
    "-qm package.train -m x": (["-qm", "package.train"], ["-m", "x"]),
    "--steps -m train.py": (["--steps", "-m"], ["train.py"]),
    "--strict": (["--strict"], []),
    "": ([], []),
}


@pytest.mark.parametrize("line", SPLITS)
def test_what_follows_the_script_belongs_to_it(line):
    assert split(line.split(), {"--steps", "-m"}) == SPLITS[line]


def after_(limit: int | None, calls: int, passes: int = 0, seconds: float = 0.0, has_optimizer: bool = True) -> bool:
    """Whether patience is lost after calls and backward passes without progress."""
    training = TrainingLog()
    patience = Patience(training, lambda: has_optimizer, limit)
    patience.is_lost(0)
    training.backwards += [None] * passes
    with pytest.MonkeyPatch.context() as patch:
        if not passes:
            now = time.monotonic()
            patch.setattr("time.monotonic", lambda: now + seconds)
        return patience.is_lost(calls)


@pytest.mark.parametrize(
    ("lost", "case"),
    [
        (False, {"limit": None, "calls": 100_000}),
        (False, {"limit": None, "calls": 400, "seconds": 1000.0}),
        (True, {"limit": None, "calls": 500, "seconds": 61.0}),
        (True, {"limit": 20, "calls": 20}),
        (False, {"limit": 20, "calls": 20, "passes": 1}),
        (True, {"limit": None, "calls": 500, "passes": 500}),
        (False, {"limit": None, "calls": 400, "passes": 49, "has_optimizer": False}),
        (True, {"limit": None, "calls": 50, "passes": 50, "has_optimizer": False}),
        (False, {"limit": 200, "calls": 50, "passes": 50, "has_optimizer": False}),
    ],
)
def test_patience_is_lost_without_progress_only(lost, case):
    assert after_(**case) is lost


def test_a_crash_is_told_with_the_users_frames():
    own = Path(gradlint.__file__).parent
    dump = f"""Fatal Python error: Segmentation fault

Current thread 0x00007f00 (most recent call first):
  File "nets.py", line 3 in forward
  File "{own / "recorder" / "session.py"}", line 9 in _forward
  File "train.py", line 7 in <module>
  File "<frozen runpy>", line 88 in _run_code
"""
    expected = 'Traceback (most recent call last):\n  File "train.py", line 7, in <module>\n'
    assert traceback_of_crash(dump) == expected + '  File "nets.py", line 3, in forward\n'


def test_discarded_job_takes_no_file_but_its_own(tmp_path):
    job = Job("train.py", False, (), report=str(tmp_path / "report"))
    other = tmp_path / "thesis.txt"
    for path in (other, Path(job.report), Path(job.crash)):
        path.touch()
    discard(job.report)
    assert list(tmp_path.iterdir()) == [other]
