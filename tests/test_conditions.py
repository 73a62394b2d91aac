"""The tool that deletes conditions: what a deletion does, and what notices it."""

from __future__ import annotations

import ast
import sys
import types
from pathlib import Path
from typing import Any

import conditions
import pytest
import switched_tests
import switches
from cases import each

TOY = """
def label(n, names=()):
    if n < 0:
        return "negative"
    if n > 100:
        return "large"
    word = "even" if n % 2 == 0 else "odd"
    chosen = [name for name in names if name]
    return word if chosen and n or names else chosen or "none"
"""


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module whose conditions have switches."""
    monkeypatch.setattr(switches, "switches", [])
    monkeypatch.setattr(switches, "felt", set())
    package = tmp_path / "toyroom"
    package.mkdir()
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "toy.py").write_text(TOY, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    switches.install("toyroom")
    from toyroom import toy  # type: ignore[import-not-found]

    yield toy
    switches.delete(switches.NONE)
    del sys.modules["toyroom"], sys.modules["toyroom.toy"]


def number_of(what: str) -> int:
    """Return the number of the switch whose deletion does this."""
    [number] = [switch.number for switch in switches.switches if switch.what == what]
    return number


def test_a_module_with_switches_does_what_it_did(toy: types.ModuleType) -> None:
    original: dict[str, Any] = {}
    exec(TOY, original)
    asked = [(n, names) for n in (-1, 0, 1, 200) for names in ((), ("a",), ("", ""))]
    assert [toy.label(*args) for args in asked] == [original["label"](*args) for args in asked]


@each(
    ("what", "arguments", "answer"),
    [
        ("never n < 0", (-1, ("a",)), "odd"),
        ("always the first arm of 'even' if n % 2 == 0 else 'odd'", (1, ("a",)), "even"),
        ("always the second arm of 'even' if n % 2 == 0 else 'odd'", (2, ("a",)), "odd"),
        ("without the filter name", (0, ("",)), "even"),
        ("without chosen in and", (1, ()), "odd"),
        ("without 'none' in or", (0, ()), False),
    ],
)
def test_deletion(toy: types.ModuleType, what: str, arguments: tuple[Any, ...], answer: object) -> None:
    switches.delete(number_of(what))
    assert toy.label(*arguments) == answer


def test_line_of_a_switch_is_that_of_the_condition(toy: types.ModuleType) -> None:
    assert switches.switches[number_of("never n > 100")].line == 5


def test_only_a_condition_that_decides_is_felt(toy: types.ModuleType) -> None:
    toy.label(-1)
    assert switches.felt == {number_of("never n < 0")}


def test_a_condition_that_acts_is_felt_whenever_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switches, "switches", [])
    (tmp_path / "acts.py").write_text("if (n := 1):\n    pass\n", encoding="utf-8")
    assert isinstance(switches.switched(tmp_path / "acts.py"), ast.Module)
    assert switches.switches[0].always_felt


def asked(toy: types.ModuleType, *arguments: Any) -> conditions.Question:
    return conditions.Question("toy", lambda: iter([("label", toy.label(*arguments))]))


def survivors(questions: list[conditions.Question]) -> set[str]:
    alive = {switch.number: switch for switch in switches.switches}
    list(conditions.ask(questions, "toyroom", alive, conditions.Counter(), 9))
    return {switch.what for switch in alive.values()}


def test_deletion_that_a_question_notices(toy: types.ModuleType) -> None:
    assert "never n < 0" not in survivors([asked(toy, -1, ("a",))])


def test_deletion_that_no_question_notices(toy: types.ModuleType) -> None:
    assert "never n > 100" in survivors([asked(toy, -1, ("a",)), asked(toy, 3, ("a",))])


def test_deletion_that_never_ends_is_noticed(toy: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless() -> Any:
        while switches.deleted != switches.NONE:
            pass
        yield "label", toy.label(-1)

    monkeypatch.setattr(conditions, "LIMIT", 0.01)
    assert "never n < 0" not in survivors([conditions.Question("endless", endless)])


def test_deletion_that_a_test_notices(toy: types.ModuleType, tmp_path: Path) -> None:
    test = tmp_path / "test_toy.py"
    test.write_text("from toyroom import toy\n\ndef test_it():\n    assert toy.label(-1) == 'negative'\n", "utf-8")
    alive = {switch.number: switch for switch in switches.switches}
    noticed = switched_tests.run([str(test)], alive, lambda: None)
    assert noticed.keys() == {number_of("never n < 0")}
