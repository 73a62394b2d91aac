"""The claims about every builder of the rules' fixtures, recorded while it builds and after it was called."""

from __future__ import annotations

import zlib

import claims
import messages
import pytest
import table

RULE_FILES = sorted(path for path in table.RULES.glob("*.py") if not path.name.startswith("_"))
BUILDERS = [b for path in table.fixture_files() for b in table.builders(path, "bad_", "good_")]
KINDS = set(table.kinds(BUILDERS))
SOON = [b for b in BUILDERS if b in KINDS or zlib.crc32(b.id.encode()) % 8 == 0]
"""One builder of each kind, and one in eight of the others."""


@pytest.mark.parametrize("builder", SOON, ids=lambda b: b.id)
def test_builder(builder):
    wrong = claims.broken(builder) if claims.is_sampled(builder) else claims.broken_when_recorded(builder)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("builder", [b for b in BUILDERS if b not in SOON], ids=lambda b: b.id)
def test_another_builder(builder):
    wrong = claims.broken(builder)
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("builder", [b for b in SOON if not claims.is_sampled(b)], ids=lambda b: b.id)
def test_builder_made_before_and_in_plain_torch(builder):
    wrong = claims.broken_otherwise(builder)
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
