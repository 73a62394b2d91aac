"""Comments and baselines: what they silence, what they do not, and what is said of those that do nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, source, write

__all__ = ["folder", "run"]

LINE = "self.body.requires_grad = False"


def codes(run: Run, *arguments: str) -> list[str]:
    out = run("check", *arguments, "--output-format", "json").out
    return [row["code"] for row in json.loads(out)["findings"]]


@each(
    ("comment", "left"),
    [
        ("# gradlint: ignore[GL102]", []),
        ("# gradlint: ignore[requires-grad-on-module]", []),
        ("# gradlint: ignore[GL102, GL401] -- because", []),
        ("# gradlint:ignore[gl102]", []),
        ("# a note  # gradlint: ignore[GL102]", []),
        ("# gradlint: ignore[GL102]  # a note", []),
        ("# gradlint: ignore", []),
        ("# noqa: GL102", []),
        ("# noqa: E501, GL102", []),
        ("# NOQA", []),
        ("# noqa: E501", ["GL102"]),
        ("# gradlint: ignore[GL401]", ["GL102"]),
        ("# gradlint: ignored[GL102]", ["GL102"]),
        ("# gradlint: ignore[]", ["GL102"]),
    ],
)
def test_comment_on_the_line(run: Run, folder: Path, comment: str, left: list[str]) -> None:
    write(folder / "m.py", FROZEN_WRONG.replace(LINE, f"{LINE}  {comment}"))
    assert [c for c in codes(run, "m.py") if c != "GL001"] == left


@each(
    ("text", "left"),
    [
        ("self.body.requires_grad = (  # gradlint: ignore[GL102]\n            False\n        )", []),
        ("self.body.requires_grad = (\n            False\n        )  # gradlint: ignore[GL102]", []),
        ("self.body.requires_grad = (\n            False  # gradlint: ignore[GL102]\n        )", ["GL102"]),
        ("# gradlint: ignore[GL102]\n        self.body.requires_grad = False", []),
        ('text = """\n# gradlint: ignore[GL102]\n"""; self.body.requires_grad = False', ["GL102"]),
    ],
)
def test_comment_on_the_statement(run: Run, folder: Path, text: str, left: list[str]) -> None:
    write(folder / "m.py", FROZEN_WRONG.replace(LINE, text))
    assert [c for c in codes(run, "m.py") if c != "GL001"] == left


@each(
    "comment",
    ["# gradlint: ignore-file[GL102]", "# gradlint: ignore-file", "x = 1  # gradlint: ignore-file[GL1O1, GL102]"],
)
def test_comment_on_the_file(run: Run, folder: Path, comment: str) -> None:
    write(folder / "m.py", f"{comment}\n{FROZEN_WRONG}")
    assert "GL102" not in codes(run, "m.py")


@each(
    ("line", "unused"),
    [
        ("x = 1  # gradlint: ignore[GL102]", True),
        ("x = 1  # gradlint: ignore[GL413]", True),
        ("x = 1  # gradlint: ignore[GL999]", True),
        ("x = 1  # gradlint: ignore[GL401]", False),
        ("p.requires_grad = False  # gradlint: ignore[GL102]", False),
        ("# gradlint: ignore[GL401]", True),
        ("# gradlint: ignore-file[GL510]", True),
        ("# gradlint: ignore-file[GL401]", False),
        ("x = 1  # noqa: GL413", True),
        ("x = 1  # noqa: F401", False),
        ("x = 1  # noqa", False),
        ("x = 1  # gradlint: ignore", False),
        ("x = 1  # gradlint: ignore[GL413]  # gradlint: ignore[GL001]", False),
    ],
)
def test_comment_that_silences_nothing(run: Run, folder: Path, line: str, unused: bool) -> None:
    """Judged only where it is certain: a recording might find what the source does not show."""
    write(folder / "m.py", source(f"{line}\n"))
    assert codes(run, "m.py") == (["GL001"] if unused else [])


def test_rule_that_is_not_run_is_not_judged(run: Run, folder: Path) -> None:
    write(folder / "m.py", source("x = 1  # gradlint: ignore[GL413]\n"))
    assert codes(run, "m.py", "--ignore", "GL413") == []


@each(
    ("before", "after"),
    [
        ("x = 1  # gradlint: ignore[GL413]", "x = 1"),
        ("x = 1  # gradlint: ignore[GL413] -- long ago", "x = 1"),
        ("x = 1  # gradlint: ignore[GL413]  # note", "x = 1  # note"),
        ("x = 1  # note  # gradlint: ignore[GL413]", "x = 1  # note"),
        ("x = 1  # gradlint: ignore[GL413, GL401] -- why", "x = 1  # gradlint: ignore[GL401] -- why"),
        ("x = 1  # noqa: E501, GL413", "x = 1  # noqa: E501"),
        ("x = 1\n# gradlint: ignore-file[GL510]\ny = 2", "x = 1\ny = 2"),
        ("é = 'ü'  # gradlint: ignore[GL413]", "é = 'ü'"),
    ],
)
def test_unused_comment_is_taken_out(run: Run, folder: Path, before: str, after: str) -> None:
    path = write(folder / "m.py", source(before + "\n"))
    assert (run("check", "m.py", "--fix").code, path.read_text(encoding="utf-8")) == (0, source(after + "\n"))


# Comments of a recording's findings


STARVED = source(
    """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.body(x).detach())  # HERE

        def never(self, x):
            return self.body(x)  # gradlint: ignore[GL401]

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 3),), "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    """
)


@each(
    ("comment", "found"),
    [
        ("# HERE", ["GL401"]),
        ("# gradlint: ignore[GL401]", []),
        ("# gradlint: ignore[GL401, GL402]", ["GL001"]),
        ("# gradlint: ignore[GL402]", ["GL401", "GL001"]),
    ],
)
def test_comments_count_for_a_recording(run: Run, folder: Path, comment: str, found: list[str]) -> None:
    write(folder / "m.py", STARVED.replace("# HERE", comment))
    assert codes(run, "m.py:build") == found


def test_comment_for_another_target_is_not_judged(run: Run, folder: Path) -> None:
    write(folder / "m.py", STARVED.replace(".detach())  # HERE", ")  # gradlint: ignore[GL401]"))
    assert codes(run, "m.py:build") == ["GL001"]
    write(folder / "gradlint.toml", "targets = ['m.py:build', 'm.py:other']\n")
    assert codes(run, "m.py:build") == []


@each(
    ("globs", "left"),
    [("['body.*']", []), ("['body.weight']", [["body.bias"]]), ("['head.*']", [["body.weight", "body.bias"]])],
)
def test_parameters_that_the_configuration_ignores(run: Run, folder: Path, globs: str, left: list[list[str]]) -> None:
    write(folder / "gradlint.toml", f"ignore-parameters = {{ GL401 = {globs} }}\n")
    write(folder / "m.py", STARVED)
    rows = json.loads(run("check", "m.py:build", "--output-format", "json").out)["findings"]
    assert [row["parameters"] for row in rows] == left


def test_one_mistake_is_one_finding(run: Run, folder: Path) -> None:
    write(
        folder / "m.py", FROZEN_WRONG + "\ndef build():\n    return {'model': Net(), 'inputs': (torch.randn(2, 3),)}\n"
    )
    rows = json.loads(run("check", "m.py", "m.py:build", "--output-format", "json").out)["findings"]
    assert [(row["code"], row["target"], row["parameters"]) for row in rows] == [
        ("GL102", "m.py:build", ["body.weight", "body.bias"])
    ]


def test_source_rules_judge_what_a_recording_ran(run: Run, folder: Path) -> None:
    text = "def {name}():\n    for p in []:\n        p.require_grad = False\n    return nn.Linear(3, 2)\n"
    write(folder / "m.py", source(text.format(name="build") + text.format(name="other")))
    rows = json.loads(run("check", "m.py:build", "--input", "2,3", "--output-format", "json").out)["findings"]
    assert [(row["code"], row["line"]) for row in rows] == [("GL103", 7)]


# --add-ignores


@each(
    ("text", "expected"),
    [
        (LINE, f"{LINE}  # gradlint: ignore[GL102]"),
        (f"{LINE}  # why not", f"{LINE}  # why not  # gradlint: ignore[GL102]"),
        (f"{LINE}  # gradlint: ignore[GL401] -- x", f"{LINE}  # gradlint: ignore[GL401, GL102] -- x"),
        (
            "self.body.requires_grad = \\\n            False",
            "self.body.requires_grad = \\\n            False  # gradlint: ignore[GL102]",
        ),
        ('self.body.requires_grad = False; x = """\n"""', None),
    ],
)
def test_comments_are_added(run: Run, folder: Path, text: str, expected: str | None) -> None:
    path = write(folder / "m.py", FROZEN_WRONG.replace(LINE, text))
    result = run("check", "m.py", "--add-ignores")
    if expected is None:
        assert (result.code, path.read_text()) == (1, FROZEN_WRONG.replace(LINE, text))
    else:
        assert (result.code, path.read_text()) == (0, FROZEN_WRONG.replace(LINE, expected))
        assert codes(run, "m.py") == []


# Baselines


def test_baseline_keeps_old_findings_quiet(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    assert run("check", "m.py", "--write-baseline", "known.json").code == 0
    assert (run("check", "m.py", "--baseline", "known.json").code, run("check", "m.py").code) == (0, 1)


@each(
    ("change", "new"),
    [
        (lambda text: "# moved\n\n" + text, 0),
        (lambda text: text.replace("        " + LINE, f"        if True:\n            {LINE}"), 0),
        (lambda text: text.replace(LINE, f"{LINE}\n        {LINE}"), 1),
        (lambda text: text.replace(LINE, f"{LINE}\n        self.body.requires_grad  =  False and False"), 0),
        (lambda text: text + "\nnet = Net()\nnet.requires_grad = False\n", 1),
    ],
)  # fmt: skip
def test_baseline_is_about_text_and_not_lines(run: Run, folder: Path, change, new: int) -> None:
    path = write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--write-baseline", "known.json")
    write(path, change(FROZEN_WRONG))
    assert len(codes(run, "m.py", "--baseline", "known.json")) == new


def test_baseline_from_the_configuration(run: Run, folder: Path) -> None:
    write(folder / "src" / "m.py", FROZEN_WRONG)
    write(folder / "gradlint.toml", "baseline = 'known.json'\n")
    assert run("check", "src", "--write-baseline", "known.json").code == 0
    assert codes(run, "src") == []


def test_what_is_fixed_is_said_to_be_gone(run: Run, folder: Path) -> None:
    path = write(folder / "m.py", FROZEN_WRONG)
    run("check", "m.py", "--write-baseline", "known.json")
    write(path, FROZEN_WRONG.replace(LINE, "pass"))
    assert "1 of the baseline gone" in run("check", "m.py", "--baseline", "known.json").out


@pytest.mark.parametrize("text", [None, "", "{}", '{"version": 9, "findings": []}', '{"version": 1, "findings": [1]}'])
def test_baseline_that_is_none(run: Run, folder: Path, text: str | None) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    if text is not None:
        write(folder / "known.json", text)
    result = run("check", "m.py", "--baseline", "known.json")
    assert (result.code, "known.json" in result.err) == (2, True)
