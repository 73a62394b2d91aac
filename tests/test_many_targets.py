"""Many targets in one call: none changes the verdict on another."""

from __future__ import annotations

import json
import os

import many
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def report(folder, targets, **environment):
    """The report on targets, without the time that each took."""
    text, _ = many.check(folder, *targets, **environment).communicate(timeout=600)
    found = json.loads(text)
    for target in found["targets"]:
        target.pop("seconds", None)
    return found


def of(found, target):
    """What a report says of one target."""
    return {
        key: [part for part in parts if part["target"] == target] for key, parts in found.items() if type(parts) is list
    }


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A folder, its targets in turn spoiled and clean, and the report on all of them."""
    folder = tmp_path_factory.mktemp("mixed")
    lines = [line for spoil in many.SPOILING.values() for line in (spoil, "")]
    targets = [
        many.write(folder, number // 2 if number % 2 else 1000 + number, line) for number, line in enumerate(lines)
    ]
    return folder, targets, report(folder, targets)


def test_a_target_gets_the_verdict_that_it_gets_alone(mixed):
    folder, targets, found = mixed
    clean = targets[1::2]
    alone = {target: of(report(folder, [target]), target) for target in clean[:2]}
    assert [of(found, target) for target in clean[:2]] == list(alone.values())


@pytest.mark.parametrize("number", range(len(many.SPOILING)), ids=list(many.SPOILING))
def test_what_a_target_changes_is_as_it_was_for_the_next(mixed, number):
    _, targets, found = mixed
    said = of(found, targets[2 * number + 1])
    codes = [finding["code"] for finding in said["findings"]]
    assert (said["errors"], codes) == ([], ["GL401"] if number % 2 else [])


def test_the_report_does_not_depend_on_the_hash_seed(mixed):
    folder, targets, found = mixed
    assert json.dumps(report(folder, targets, PYTHONHASHSEED="7")) == json.dumps(found)
