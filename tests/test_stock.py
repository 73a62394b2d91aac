"""Stock architectures of transformers, trained as a user would, give no error and no warning: the reviewed snapshot."""

from __future__ import annotations

import warnings

import pytest

transformers = pytest.importorskip("transformers")

import stock  # noqa: E402

from gradlint import Severity  # noqa: E402

KEPT = stock.snapshot()
SAME = transformers.__version__ == KEPT["transformers"]


def test_enough_architectures_run():
    assert len(KEPT["ran"]) >= 150


def test_no_reviewed_finding_is_an_error_or_a_warning():
    loud = {kind: row for kind, row in KEPT["ran"].items() if "error" in row[2] or "warning" in row[2]}
    assert not loud


@pytest.mark.slow
@pytest.mark.skipif(not SAME, reason=f"the snapshot is of transformers {KEPT['transformers']}")
def test_every_architecture_is_in_the_snapshot():
    assert set(stock.architectures()) == {*KEPT["ran"], *KEPT["not run"]}


@pytest.mark.slow
@pytest.mark.skipif(not SAME, reason=f"the snapshot is of transformers {KEPT['transformers']}")
@pytest.mark.parametrize("kind", KEPT["ran"])
def test_architecture_gives_what_was_reviewed(kind):
    name, level, expected = KEPT["ran"][kind]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        findings, wrong = stock.judge(stock.builder(kind, name, level))
    assert not wrong, wrong
    assert not [f.message for f in findings if f.severity > Severity.INFO]
    reviewed = [f for f in findings if f.code in stock.REVIEWED]
    assert stock.summary(reviewed) == expected, [f.message for f in reviewed]
