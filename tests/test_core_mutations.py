"""The tool that deletes conditions of the recorder's rooms: its forks, and what it asks first."""

from __future__ import annotations

import time

import core_mutations


def test_what_a_fork_returns_comes_back():
    assert core_mutations.Fork(lambda: [1, "a"]).answer() == [1, "a"]


def test_a_fork_that_waits_for_ever_is_ended():
    assert core_mutations.Fork(lambda: time.sleep(60), patience=0.2).answer() is None


def test_the_quickest_of_each_kind_come_first():
    reached = [
        core_mutations.Reached("one built", frozenset({1}), 3.0),
        core_mutations.Reached("two built", frozenset({1}), 1.0),
        core_mutations.Reached("three script", frozenset({1}), 9.0),
        core_mutations.Reached("four script", frozenset({2}), 0.1),
    ]
    assert [r.name for r in core_mutations.quickest(1, reached, 3)] == ["two built", "three script", "one built"]
