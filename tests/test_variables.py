"""Options in variables of the environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write

__all__ = ["folder", "run"]

LINE = "m.py:9:9: GL102 "


@pytest.fixture
def file(folder: Path) -> Path:
    return write(folder / "m.py", FROZEN_WRONG)


def test_an_option_can_be_a_variable(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_CHECK_OUTPUT_FORMAT", "concise")
    assert run("check", "m.py").out.startswith(LINE)


def test_the_command_line_takes_precedence(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_CHECK_OUTPUT_FORMAT", "json")
    assert run("check", "m.py", "--output-format", "concise").out.startswith(LINE)


def test_a_repeatable_option_takes_several_words(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_CHECK_IGNORE", "GL601 GL102")
    assert run("check", "m.py").code == 0


def test_a_variable_names_no_target(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_CHECK_TARGETS", "gone.py")
    result = run("check")
    assert "gone.py" not in result.out + result.err


def test_a_variable_with_the_version_changes_nothing(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_VERSION", "1")
    assert run("check", "m.py", "--output-format", "concise").out.startswith(LINE)


def test_a_wrong_variable_is_named(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADLINT_CHECK_FAIL_ON", "never")
    result = run("check", "m.py")
    assert (result.code, "--fail-on" in result.err) == (2, True)


@each("form", ["json", "gitlab", "rdjson"])
def test_a_wrong_option_leaves_a_document(run: Run, file: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("GRADLINT_CHECK_OUTPUT_FORMAT", form)
        result = run("check", "m.py", "--select", "GL999")
    assert (result.code, "GL999" in json.dumps(json.loads(result.out))) == (2, True)
