"""Text from outside cannot break out of a report: no escapes, line breaks, bidi controls, commands or markup."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cases import each
from hypothesis import example, given, settings
from hypothesis import strategies as st
from snippets import FROZEN_WRONG, Run, folder, run, write
from test_formats import official

from gradlint.findings import Edit, Failure, Finding, Fix, Note, Related, Report, Severity, Skipped, SourceSummary
from gradlint.findings import TargetSummary as Summary
from gradlint.flow.outcome import OutcomeKind
from gradlint.location import Location
from gradlint.lock.lockfile import parse
from gradlint.lock.lockfile import render as lock_text
from gradlint.lock.snapshot import Entry, Norm, Snapshot
from gradlint.report import FORMATS, concise, render, statistics, why
from gradlint.report.explanation import Explanation, Section, Step
from gradlint.report.view import View
from gradlint.system.legible import json_text, one_line, sanitized
from gradlint.testing.assertions import text_of
from gradlint.triage.baseline import Baseline
from gradlint.triage.fixes import unified

__all__ = ["folder", "official", "run"]

PIECES = [
    "\x1b[2J", "\x1b]8;;http://x\x07", "\x9b31m", "\r", "\n", "\r\n::error::x", "::error title=x::", "##[error]",
    "##vso[task.complete]", "##teamcity[x]", "###[", "\u202e", "\u2066", "\u2028", "\x85", "\x00", "\x7f", "\x0c",
    "\udce9", "\ud800", "\u200b", "\ufeff", "\U000e0041", "[red]", "[a](http://x)", "%0A", "{0}", " ", "\u3000", "a",
    "é", "漢", ":", "#", "\t", '"""', "\\", "..", "/", "x" * 30,
]  # fmt: skip


def paired(parts: list[str]) -> str:
    """Parts as one text, in which two surrogates that make a character are that character: JSON knows no other."""
    return "".join(parts).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


HOSTILE = st.lists(st.sampled_from(PIECES), min_size=1, max_size=8).map(paired)
FEW = settings(max_examples=30)
COLOR = re.compile(r"\x1b\[[0-9;]*m")
COMMAND = re.compile(r"##(?:vso|teamcity)?\[")


def problems(text: str, *, color: bool = False, commands: int = 0) -> list[str]:
    """What is unsafe in an output, which may contain this many commands of its own."""
    plain = COLOR.sub("", text) if color else text
    lines = plain.split("\n")
    hidden = {c for c in plain if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")}
    started = [line for line in lines if line.lstrip().startswith("::")]
    return [
        *(f"holds {c!r}" for c in sorted(hidden)),
        *([] if len(started) == commands else [f"{len(started)} lines begin with ::, not {commands}"]),
        *(f"holds a command: {line!r}" for line in lines if COMMAND.search(line)),
    ]


def report_of(text: str) -> Report:
    """A report with a text in every place that user code or a file name reaches."""
    place = Location(f"/nowhere/{text}.py", 3, 1, 3, 9)
    fix = Fix(f"Write {text}.", True, (Edit(place, text),))
    finding = Finding(text, "GL401", "detached-upstream", Severity.ERROR, text, place, (text, f"{text}.a"),
                      (Related(text, place),), fix)  # fmt: skip
    summary = Summary(text, text, text, 3, 3, 0, 0, 0, 3, 9, optimizers=((text, 2),), parts=((text, text),))
    return Report(
        findings=[finding, Finding(text, "GL003", "partial-recording", Severity.WARNING, f"a {text}", None, (text,))],
        skipped=[Skipped(text, "GL301", text)],
        errors=[Failure(text, text, f"Traceback\n  File {text}\n{text}\nError: {text}")],
        notes=[Note(text, text, "GL003", place), Note("", text)],
        targets=[summary],
        sources=SourceSummary(3, 2),
    )


def test_the_pieces_are_unsafe() -> None:
    assert all(problems(text) for text in ("\x1b[2J", "\n::error::", "x ##[error]", "\u202e", "\udce9", "\x85"))


@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("form", FORMATS)
@FEW
@given(text=HOSTILE, width=st.sampled_from([20, 80]), encoding=st.sampled_from(["utf-8", "ascii"]))
@example(text="\n::error::x", width=20, encoding="utf-8")
@example(text="x" * 17 + "::error::y", width=20, encoding="utf-8")
def test_reports_are_safe(form: str, color: bool, text: str, width: int, encoding: str) -> None:
    view = View(width=width, color=color, encoding=encoding, verbose=True, root=Path("/nowhere"))
    out = render(form, report_of(text), view)
    own = 3 if form == "github" else 0
    assert problems(out, color=color and form == "full", commands=own) == []
    assert form not in ("concise", "github") or out.count("\n") == {"concise": 2, "github": 3}[form]


@FEW
@given(text=HOSTILE)
def test_what_stands_beside_a_report_is_safe(text: str) -> None:
    report, view = report_of(text), View(width=20)
    parts = [concise.aside(report, view), sanitized(concise.errors(report, view)), concise.notes(report, view),
             statistics.render(report, view), statistics.as_json(report), text_of(report, "m.py:build")]  # fmt: skip
    assert [problems(part) for part in parts] == [[]] * len(parts)


@pytest.mark.parametrize("color", [False, True])
@FEW
@given(text=HOSTILE)
def test_explanations_are_safe(color: bool, text: str) -> None:
    place = Location(f"/nowhere/{text}.py", 3)
    explanation = Explanation(text, text, text, [Section(text, [Step(text, place, True), Step(text, place)])])
    assert problems(why.render([explanation], View(width=80, color=color)), color=color) == []


@FEW
@given(text=HOSTILE)
def test_json_keeps_the_true_text(text: str) -> None:
    document = json.loads(render("json", report_of(text), View(root=Path("/"))))
    assert document["findings"][0]["message"] in (text, f"a {text}")


@pytest.mark.parametrize("text", [*PIECES[:8], "".join(PIECES)], ids=ascii)
def test_sarif_is_valid(official: dict[str, Any], text: str) -> None:
    log = json.loads(render("sarif", report_of(text), View(root=Path("/nowhere"))))
    jsonschema.validate(log, official)
    message = log["runs"][0]["results"][0]["message"]["text"]
    assert not re.search(r"(?<!\\)\[[^\[\]]*\]\(", message)


@FEW
@given(text=HOSTILE)
def test_a_baseline_is_safe_and_known_again(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "baseline.json"
    findings = report_of(text).findings
    Baseline.made_of(findings, path).write()
    assert problems(path.read_bytes().decode()) == []
    assert Baseline.read(path).new(findings) == ([], 2, 0)


@FEW
@given(text=HOSTILE)
def test_a_lock_is_safe_and_read_back(text: str) -> None:
    entry = Entry(text, (2, 2), OutcomeKind.TRAINS)
    written = lock_text([Snapshot(f"{text}.py:build", {text: entry}, {f"{text}.n": Norm(f"{text}.n", "N", True)})])
    found = [problem for problem in problems(written) if "begin with" not in problem]  # it is no log
    [(target, snapshot)] = parse(written, Path("gradlint.lock")).items()
    assert (found, target, snapshot.entries) == ([], f"{text}.py:build", {text: entry})


@FEW
@given(text=HOSTILE)
def test_one_line_is_one_safe_line(text: str) -> None:
    assert problems(one_line(text)) == [] and "\n" not in one_line(text)


@FEW
@given(text=HOSTILE)
def test_what_is_sanitized_once_stays_the_same(text: str) -> None:
    assert sanitized(sanitized(text)) == sanitized(text)


@FEW
@given(text=HOSTILE)
def test_readable_json_keeps_its_strings(text: str) -> None:
    assert json.loads(json_text({text: [text]}, readable=True)) == {text: [text]}


@each("text", ["a[::2]", "std::x", "x = y  # [1]", "größe", "漢字", "a # b", "## Heading", "[red]", "100 %"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert one_line(text) == text


def test_a_diff_names_a_hostile_file_in_one_line() -> None:
    lines = unified("a\n", "b\n", "x\n::error::y").split("\n")
    assert lines[:2] == ["--- a/x ::error::y", "+++ b/x ::error::y"]


@each("char", ["\f", "\x85", "\u2028", "\v"])
def test_only_line_feeds_end_the_lines_of_a_diff(char: str) -> None:
    assert unified(f"a{char}b\nc\n", f"a{char}b\nd\n", "x").count("\n") == 6


# -- files that are called so ------------------------------------------------------------------------------------------

posix = pytest.mark.skipif(os.name != "posix", reason="other systems have no such names")
NAMES = {
    "a workflow command": "::error title=x::y.py",
    "an escape sequence": "esc\x1b[2J.py",
    "a line break": "line\n::error::break.py",
    "another direction": "\u202eyp.py",
    "an old command": "##[error]x.py",
    "markup": "[bold red]x[a](x).py",
    "no UTF-8": os.fsdecode(b"caf\xe9.py"),
}
OUTPUTS: dict[str, list[str]] = {
    **{form: ["--output-format", form] for form in FORMATS},
    "color": ["--color", "always"],
    "statistics": ["--statistics"],
    "statistics in JSON": ["--statistics", "--output-format", "json"],
    "quiet": ["-q"],
    "diff": ["--diff"],
    "baseline": ["--write-baseline", "../b.json"],
    "fix only": ["--fix-only"],
    "ignores": ["--add-ignores"],
}


@posix
@pytest.mark.parametrize("output", OUTPUTS)
def test_files_with_hostile_names_are_reported_safely(run: Run, folder: Path, output: str) -> None:
    for name in NAMES.values():
        write(folder / name, FROZEN_WRONG)
        write(folder / f"wrong {name}", "import torch\n\x1b[2J ::error:: ##[error] \u202e (\n")
        (folder / f"gone {name}").symlink_to("nowhere")
    result = run("check", ".", *(f"gone {name}" for name in NAMES.values()), *OUTPUTS[output])
    own = result.out.count("\n") if output == "github" else 0
    found = [*problems(result.out, color=output == "color", commands=own), *problems(result.err)]
    assert (found, "gradlint itself failed" in result.err) == ([], False)
    if output in FORMATS:
        assert sum("GL102" in line for line in result.out.split("\n")) >= len(NAMES)


@posix
def test_paths_in_json_are_those_of_the_files(run: Run, folder: Path) -> None:
    for name in NAMES.values():
        write(folder / name, FROZEN_WRONG)
    document = json.loads(run("check", ".", "--output-format", "json").out)
    assert {row["path"] for row in document["findings"]} == set(NAMES.values())


@posix
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_skeleton_is_safe(run: Run, folder: Path, name: str) -> None:
    write(folder / name, FROZEN_WRONG)
    result = run("init", name, "-o", "-")
    assert (problems(result.out + result.err), "gradlint itself failed" in result.err) == ([], False)


@posix
@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_settings_of_a_hostile_folder_are_shown_safely(run: Run, folder: Path, name: str) -> None:
    write(folder / name / "gradlint.toml", "strict = true\n")
    assert problems(run("show-settings", name).out) == []


@each("option", ["--select", "--baseline", "--fail-on", "--config", "--rules-dir", "--cache-dir", "--output-file"])
def test_usage_errors_are_safe(run: Run, folder: Path, option: str) -> None:
    write(folder / "a.py", FROZEN_WRONG)
    result = run("check", "a.py", "gone/\x1b[2J\n::error::x.py", option, "gone/\x1b[2J\n::error::x")
    assert (result.code, problems(result.err)) == (2, [])


# -- user code that names its parts so ---------------------------------------------------------------------------------

HOSTILE_CODE = r"""
import torch
from torch import nn

EVIL = "\x1b[2J\n::error title=x::y ##[error] \u202e {0} [bold]"


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleDict({EVIL: nn.Linear(4, 4), "b": nn.Linear(4, 4)})
        self.norm = type("N" + EVIL, (nn.BatchNorm1d,), {})(4)

    def forward(self, x):
        return self.norm(self.layers["b"](self.layers[EVIL](x).detach()))


def build():
    model = Net()
    optimizer = type("O" + EVIL, (torch.optim.SGD,), {})(model.parameters(), 0.1)
    return {"model": model, "inputs": (torch.ones(2, 4),), "optimizer": {EVIL: optimizer}}


def raises():
    raise type("E" + EVIL, (Exception,), {})(EVIL)
"""


@pytest.mark.parametrize("color", ["always", "never"])
def test_hostile_names_of_user_code_are_safe(run: Run, folder: Path, color: str) -> None:
    write(folder / "m.py", HOSTILE_CODE)
    result = run("check", "m.py:build", "m.py:raises", "-v", "--color", color)
    assert ("GL401" in result.out, problems(result.out, color=True), problems(result.err)) == (True, [], [])


def test_hostile_names_of_user_code_are_locked(run: Run, folder: Path) -> None:
    write(folder / "m.py", HOSTILE_CODE)
    assert [run("lock", "m.py:build").code, run("lock", "--check", "m.py:build").code] == [0, 0]
    assert not {c for c in (folder / "gradlint.lock").read_text() if c != "\n" and not c.isprintable()}
