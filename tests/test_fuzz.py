"""Generated programs: the verdicts on each parameter against a real backward and against changed parameters."""

from __future__ import annotations

from pathlib import Path

import fuzz
import generated
import generated_templates
import pytest


@pytest.mark.parametrize("number", [0, 1, 2, 4, 5, 6, 7, 8, 9, 10])
def test_generated_program(number: int, tmp_path: Path) -> None:
    assert [str(d) for d in fuzz.judge(generated.program(number), tmp_path)] == []


@pytest.mark.parametrize(
    "templates",
    [("copied_over", "vmap"), ("filled", "jvp"), ("np_function", "new_parameter"), ("copied_over", "func_grad")],
    ids="-".join,
)
def test_statements_together(templates: tuple[str, ...], tmp_path: Path) -> None:
    statements = tuple(generated.Statement(t, n, n - 1, -1) for n, t in enumerate(templates))
    assert [str(d) for d in fuzz.judge(generated.Program(statements, "all"), tmp_path)] == []


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 300, 100))
def test_generated_programs(first: int) -> None:
    figures = fuzz.judge_seeds(range(first, first + 100))
    assert not figures.wrong, figures.text()


@pytest.mark.parametrize("name", generated_templates.TEMPLATES)
def test_each_statement_runs(name: str, tmp_path: Path) -> None:
    template = generated_templates.TEMPLATES[name]
    statement = generated.Statement(name, 0, -1, -1, template.needs or "linear")
    made = fuzz.Loaded(generated.Program((statement,)).source, tmp_path).names()["build"]()
    with fuzz.quiet():
        made["loss"](made["model"](*made["inputs"]))


def test_a_disagreement_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(program: generated.Program, *_: object) -> list[fuzz.Disagreement]:
        bad = any(s.template == "detach" for s in program.statements)
        return [fuzz.Disagreement("loss", "invents data", "")] * bad

    monkeypatch.setattr(fuzz, "judge", wrong)
    statements = [generated.Statement(t, n, n - 1, -1) for n, t in enumerate(("layer", "detach", "residual", "round"))]
    small, _ = fuzz.shrunk(generated.Program(tuple(statements), "all", "two"), "invents data")
    assert [s.template for s in small.statements] == ["detach"]
    assert small.optimizer == "all"
