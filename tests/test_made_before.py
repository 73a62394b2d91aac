"""A set-up that was made before gradlint saw it has no lines of its build: less is known, and nothing false is said."""

from __future__ import annotations

import pytest
import table

import gradlint
from gradlint import Severity

BUILDERS = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]
LEFT_OFF = "grad-mode-left-off"
"""Its builders leave grad mode off, which is then the state that is found."""
COPIES = {"frozen_norm_updates_stats-good_mean_teacher"}
"""Set-ups whose innocence is that one network was copied from another, which nobody saw."""


@pytest.mark.filterwarnings("ignore")  # what torch says of the mistakes is not ours to judge here
@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_no_more_is_said_than_of_the_build(builder):
    if LEFT_OFF in {a.rule for a in builder.annotations}:
        pytest.skip("grad mode is off before the recording begins")
    if builder.id in COPIES:
        pytest.skip("that it is a copy is known only where the copying was seen")
    report = gradlint.check(builder.load()(), numeric=True)
    assert not report.errors, report.errors
    told = {f.code for f in report.findings if f.severity > Severity.INFO}
    known = {f.code for f in table.report(builder.target).findings}
    # where the build tells why an optimizer does not hold a parameter, another rule says it
    assert told - known <= ({"GL302"} if builder.bad else set()), table.names_of(builder.id, report)
