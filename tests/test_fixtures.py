"""The claims about every builder of the rules' fixtures, recorded while it builds and after it was called."""

from __future__ import annotations

import claims
import messages
import pytest
import table

RULE_FILES = sorted(path for path in table.RULES.glob("*.py") if not path.name.startswith("_"))
BUILDERS = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]


@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.id)
def test_builder(builder):
    wrong = claims.broken(builder) if claims.is_sampled(builder) else claims.broken_when_recorded(builder)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("path", table.fixture_files(), ids=lambda path: path.stem)
def test_builders_made_before_and_in_plain_torch(path):
    rest = [builder for builder in BUILDERS if builder.path == path and not claims.is_sampled(builder)]
    wrong = [text for builder in rest for text in claims.broken_otherwise(builder)]
    assert not wrong, "\n".join(wrong)


def test_rules_have_bad_and_good_builders():
    for path in RULE_FILES:
        fixture = table.FIXTURES / path.name
        found = [b.name.partition("_")[0] for b in BUILDERS if b.path == fixture]
        assert min(found.count("bad"), found.count("good")) >= 2, f"{fixture} needs two bad and two good builders"


def test_snapshots_hold_no_other_builders():
    assert set(messages.reviewed(messages.SNAPSHOT)) == {b.id for b in messages.builders()}, claims.REGENERATE
    late = {b.id for b in messages.made_before_builders()}
    assert set(messages.reviewed(messages.MADE_BEFORE)) <= late, claims.REGENERATE
