"""A set-up that was made before gradlint saw it has no lines of its build: less is known, and nothing false is said."""

from __future__ import annotations

import messages
import pytest
import table

from gradlint import Severity

BUILDERS = messages.made_before_builders()
REVIEWED = messages.read(messages.MADE_BEFORE)


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_no_more_is_said_than_of_the_build(builder):
    report = messages.made_before(builder)
    assert not report.errors, report.errors
    told = {f.code for f in report.findings if f.severity > Severity.INFO}
    known = {f.code for f in table.report(builder.target).findings}
    # where the build tells why an optimizer does not hold a parameter, another rule says it
    assert told - known <= ({"GL302"} if builder.bad else set()), table.names_of(builder.id, report)


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_words_are_as_reviewed(builder):
    report = messages.made_before(builder)
    now = messages.text(builder, report) if messages.told(builder, report.findings) else ""
    assert now == REVIEWED.get(builder.id, ""), "if meant: python tests/kit/messages.py --write, and read it"


def test_nothing_else_is_kept():
    assert set(REVIEWED) <= {b.id for b in BUILDERS}
