"""Formats that services and agents read, several reports in one call, and the note on the service that runs a check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write

from gradlint.findings import Finding, Fix, Report, Severity
from gradlint.location import Location
from gradlint.report import agent
from gradlint.report.view import View

__all__ = ["folder", "run"]


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)


def written(run: Run, form: str, *arguments: str) -> str:
    return run("check", *arguments, "--output-format", form).out


def of(properties: dict[str, Any], *optional: str) -> dict[str, Any]:
    """The schema of an object with exactly these keys."""
    required = sorted({*properties} - {*optional})
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


TEXT, NUMBER = {"type": "string", "minLength": 1}, {"type": "integer", "minimum": 1}
GITLAB = {
    "type": "array",
    "items": of({
        "description": TEXT, "check_name": TEXT, "fingerprint": TEXT,
        "severity": {"enum": ["info", "minor", "major", "critical", "blocker"]},
        "location": of({"path": TEXT, "lines": of({"begin": NUMBER, "end": NUMBER}, "end")}),
    }),
}  # fmt: skip
"""What GitLab's page on code quality reports asks for."""
PLACE = of({"line": NUMBER, "column": NUMBER})
RANGE = of({"start": PLACE, "end": PLACE}, "end")
RDJSON = of({
    "source": of({"name": TEXT}),
    "diagnostics": {"type": "array", "items": of(
        {
            "message": TEXT, "location": of({"path": TEXT, "range": RANGE}, "range"),
            "severity": {"enum": ["ERROR", "WARNING", "INFO"]}, "code": of({"value": TEXT}),
            "suggestions": {"type": "array", "items": of({"range": RANGE, "text": {"type": "string"}})},
        },
        "code", "suggestions",
    )},
})  # fmt: skip
"""DiagnosticResult of reviewdog, as far as it is used."""


@each("argument", ["m.py", "gone.py", "clean.py"])
def test_gitlab_and_rdjson_keep_to_their_schemas(run: Run, folder: Path, argument: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    write(folder / "clean.py", "import torch\n")
    jsonschema.validate(json.loads(written(run, "gitlab", argument)), GITLAB)
    jsonschema.validate(json.loads(written(run, "rdjson", argument)), RDJSON)


def test_gitlab_tells_a_repeated_mistake_apart(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG + FROZEN_WRONG.replace("Net", "Other"))
    issues = json.loads(written(run, "gitlab", "m.py"))
    assert [issue["location"]["lines"]["begin"] for issue in issues] == [9, 22]
    assert len({issue["fingerprint"] for issue in issues}) == 2


def test_gitlab_keeps_the_fingerprint_when_lines_move(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    [before] = json.loads(written(run, "gitlab", "m.py"))
    write(folder / "m.py", "# moved\n" + FROZEN_WRONG)
    [after] = json.loads(written(run, "gitlab", "m.py"))
    assert (before["fingerprint"], after["location"]["lines"]["begin"]) == (after["fingerprint"], 10)


def test_rdjson_counts_bytes_and_suggests_safe_edits(run: Run, folder: Path) -> None:
    text = FROZEN_WRONG.replace("        self.body.requires", "        é = 'é'; self.body.requires")
    path = write(folder / "m.py", text)
    [made] = json.loads(written(run, "rdjson", "m.py"))["diagnostics"]
    [suggestion] = made["suggestions"]
    line = path.read_bytes().split(b"\n")[suggestion["range"]["start"]["line"] - 1]
    start, end = (suggestion["range"][key]["column"] - 1 for key in ("start", "end"))
    assert line[start:end] == b"self.body.requires_grad = False"
    assert (suggestion["text"], made["location"]["range"]) == ("self.body.requires_grad_(False)", suggestion["range"])


def test_junit_counts_what_it_holds(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    suites = ElementTree.fromstring(written(run, "junit", "m.py", "gone.py"))
    [suite] = suites
    cases = suite.findall("testcase")
    assert (suites.tag, suite.attrib) == (
        "testsuites", {"name": "gradlint", "tests": "3", "failures": "1", "errors": "1"},
    )  # fmt: skip
    assert [child.tag for case in cases for child in case] == ["system-out", "error", "failure"]
    assert cases[2].attrib == {"classname": "m.py", "name": "GL102 m.py:9:9"}


def test_junit_of_a_clean_check_has_a_case_that_passes(run: Run, folder: Path) -> None:
    write(folder / "m.py", "import torch\n")
    [case] = ElementTree.fromstring(written(run, "junit", "m.py")).iter("testcase")
    assert [child.tag for child in case] == ["system-out"]


def test_json_lines_hold_what_json_holds(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    lines = [json.loads(line) for line in written(run, "json-lines", "m.py", "gone.py").splitlines()]
    whole = json.loads(written(run, "json", "m.py", "gone.py"))
    assert [line.pop("kind") for line in lines] == ["finding", "error", "note"]
    assert lines == whole["findings"] + whole["errors"] + whole["notes"]


def test_agent_is_one_line_for_a_finding_and_the_summary(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    assert written(run, "agent", "m.py").splitlines() == [
        "m.py:9:9 GL102 requires_grad set on self.body, an nn.Module, changes no parameter. "
        "| fix: Call requires_grad_(False) on the module.",
        "1 file read, source rules apply to it",
        "1 error, 1 fixable with --fix",
    ]


def test_agent_keeps_a_line_short_and_names_groups() -> None:
    names = tuple(f"part{n}.{m}.weight" for n in range(5) for m in range(9))
    made = Finding(
        "t", "GL401", "x", Severity.ERROR, "First cause. " + "More words. " * 40, Location("m.py", 3, 5), names,
        fix=Fix("Do this. Or that."),
    )  # fmt: skip
    line = agent.render(Report(findings=[made]), View(quiet=True))
    assert line == (
        "m.py:3:5 GL401 First cause. | part0.* (9 tensors), part1.* (9 tensors), part2.* (9 tensors), and 2 more "
        "| fix: Do this.\n"
    )


def test_agent_cuts_a_long_sentence_between_words() -> None:
    made = Finding("t", "GL401", "x", Severity.ERROR, "word " * 100, Location("m.py", 3))
    line = agent.render(Report(findings=[made]), View(quiet=True))
    assert len(line) <= agent.MOST + 1
    assert line.endswith("word...\n")


def test_further_reports_are_written(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py", "--output-format", "concise", "--also", "sarif:o.sarif", "--also", "gitlab:o.json")
    assert (result.code, result.out.count("\n")) == (1, 1)
    assert len(json.loads((folder / "o.sarif").read_text())["runs"][0]["results"]) == 1
    assert len(json.loads((folder / "o.json").read_text())) == 1


@each(
    ("text", "said"),
    [
        ("sarf:o", "did you mean sarif?"),
        ("sarif", "write it as FORMAT:FILE"),
        ("sarif:", "write it as FORMAT:FILE"),
        ("sarif:m.py", "this is source code"),
        ("sarif:gone/o", "cannot be written"),
    ],
)
def test_a_further_report_that_cannot_be(run: Run, folder: Path, text: str, said: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py", "--also", text)
    assert (result.code, said in result.err) == (2, True)


@each(
    ("variable", "arguments", "expected"),
    [
        ("GITHUB_ACTIONS", [], True),
        ("GITHUB_ACTIONS", ["--output-format", "github"], False),
        ("GITHUB_ACTIONS", ["--also", "sarif:o.sarif"], False),
        ("GITLAB_CI", [], True),
        ("GITLAB_CI", ["--also", "gitlab:o.json"], False),
        ("GITLAB_CI", ["-q"], False),
    ],
)
def test_the_service_is_noticed_and_nothing_switched(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch, variable: str, arguments: list[str], expected: bool
) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    with monkeypatch.context() as patch:
        without = run("check", "m.py", *arguments).out
        patch.setenv(variable, "true")
        result = run("check", "m.py", *arguments)
    assert (result.out, "note: on Git" in result.err) == (without, expected)
