"""A finished trace and its evidence are data: they do not change, and another process judges them without torch."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from kit import table

from gradlint.engine.check import check_trace, record_target
from gradlint.engine.options import Options
from gradlint.experiments.settle import analyse
from gradlint.findings import Report
from gradlint.rulekit import registry

JUDGE = """
import json, pickle, sys
sys.modules["torch"] = None
from test_trace_is_data import judged
with open(sys.argv[1], "rb") as file:
    recordings = pickle.load(file)
json.dump({target: judged(*recording) for target, recording in recordings.items()}, sys.stdout)
"""
KINDS = table.kinds([b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")])
PROCESSES = 8
"""How many processes judge what is recorded of one builder of each kind."""


def judged(trace: Any, evidence: Any) -> list[str]:
    """Return the findings of all rules in a trace, as text."""
    report = check_trace(trace, registry.load(packs=False).rules, Options(), evidence)
    return texts(report)


def texts(report: Report) -> list[str]:
    """Return all that a report says, as text."""
    return [*map(repr, report.findings), *map(repr, report.notes), *(error.message for error in report.errors)]


def recorded(target: str) -> tuple[Any, Any]:
    """Return a target's trace and the evidence that further runs gave."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with record_target(target, Options()) as recorded:
            return recorded.trace, analyse(recorded.trace, recorded.replay, numeric=True).evidence


def in_another_process(recordings: dict[str, Any], folder: Path) -> dict[str, list[str]]:
    """Return the findings that another process reports for pickled recordings."""
    path = folder / "recordings"
    path.write_bytes(pickle.dumps(recordings))
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", JUDGE, str(path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, list[str]] = json.loads(done.stdout)
    return result


def check(builders: Sequence[table.Builder], folder: Path) -> None:
    recordings = {b.target: recorded(b.target) for b in builders}
    here = {target: judged(*recording) for target, recording in recordings.items()}
    there = in_another_process(recordings, folder)
    assert there == here
    assert any(here.values())


def test_a_pickled_trace_gives_the_same_findings(tmp_path: Path) -> None:
    check(table.builders(table.FIXTURES / "function_drops_gradient.py", "bad_", "good_"), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(PROCESSES))
def test_a_pickled_trace_of_each_kind_gives_the_same_findings(first: int, tmp_path: Path) -> None:
    check(KINDS[first::PROCESSES], tmp_path)


def test_measuring_gradients_adds_no_site_to_the_trace() -> None:
    with record_target(f"{table.FIXTURES / 'zero_gradient.py'}:bad_softmax_over_one_expert", Options()) as recording:
        before = pickle.dumps(recording.trace.sites)
        numeric = analyse(recording.trace, recording.replay, numeric=True).evidence.gradients
        assert numeric is not None
        assert any(gradient.stop is not None for gradient in numeric.gradients.values())
        assert pickle.dumps(recording.trace.sites) == before
