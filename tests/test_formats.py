"""Report formats for machines, and the options that decide what is written where."""

from __future__ import annotations

import contextlib
import json
import pickle
import sqlite3
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, source, write

__all__ = ["folder", "run"]

TWO = FROZEN_WRONG + "\ndef loss(x, y):\n    return F.cross_entropy(x.softmax(1), y)\n"


def sarif(run: Run, *arguments: str) -> dict[str, Any]:
    log: dict[str, Any] = json.loads(run("check", *arguments, "--output-format", "sarif").out)
    return log


@pytest.fixture(params=["findings", "clean", "errors", "odd names"])
def log(request: pytest.FixtureRequest, run: Run, folder: Path) -> dict[str, Any]:
    write(folder / "m.py", TWO)
    if request.param == "odd names":
        write(folder / "ü b#.py", TWO)
        return sarif(run, "ü b#.py")
    return sarif(
        run, *{"findings": ["m.py"], "clean": ["m.py", "--select", "GL4"], "errors": ["m.py", "gone.py"]}[request.param]
    )


@pytest.fixture(scope="session")
def official() -> dict[str, Any]:
    """The schema of SARIF 2.1.0 as its committee publishes it. The package schemastore holds what web servers answered,
    which the library that wrote it takes for out of date; it is all there."""
    store = Path(str(distribution("schemastore").locate_file("schemastore/cache.sqlite")))
    asked = "https://json.schemastore.org/sarif-2.1.0.json"
    with contextlib.closing(sqlite3.connect(f"{store.as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        rows = connection.execute("SELECT value FROM responses WHERE instr(value, ?)", [asked.encode()])
        answers = [pickle.loads(value) for [value] in rows]
    [schema] = [json.loads(answer["_content"]) for answer in answers if answer["url"] == asked]
    assert schema["$id"].endswith("sarif-schema-2.1.0.json")
    return dict(schema)


def test_sarif_keeps_to_the_official_schema(log: dict[str, Any], official: dict[str, Any]) -> None:
    jsonschema.validate(log, official)


def test_sarif_tells_everything(run: Run, folder: Path) -> None:
    write(folder / "m.py", TWO)
    [made] = sarif(run, "m.py")["runs"]
    first, second = made["results"]
    assert [rule["id"] for rule in made["tool"]["driver"]["rules"]] == ["GL102", "GL601"]
    assert "What it does" in made["tool"]["driver"]["rules"][0]["help"]["markdown"]
    assert (first["ruleId"], first["level"], made["tool"]["driver"]["rules"][first["ruleIndex"]]["id"]) == (
        "GL102",
        "error",
        "GL102",
    )
    assert first["locations"][0]["physicalLocation"] == {
        "artifactLocation": {"uri": "m.py", "uriBaseId": "SRCROOT"},
        "region": {"startLine": 9, "startColumn": 9, "endLine": 9, "endColumn": 40},
    }
    assert (
        first["fixes"][0]["artifactChanges"][0]["replacements"][0]["insertedContent"]["text"]
        == "self.body.requires_grad_(False)"
    )
    assert second["relatedLocations"][0]["message"]["text"] == "passed to cross_entropy here"


def test_sarif_fingerprint_stays_when_lines_move(run: Run, folder: Path) -> None:
    prints = []
    for text in (TWO, "# moved\n\n" + TWO):
        write(folder / "m.py", text)
        prints.append([r["partialFingerprints"] for r in sarif(run, "m.py")["runs"][0]["results"]])
    assert prints[0] == prints[1]


def test_github_commands(run: Run, folder: Path) -> None:
    write(folder / "a,b.py", FROZEN_WRONG)
    line = run("check", "a,b.py", "gone.py", "--output-format", "github").out.splitlines()
    assert line[0].startswith(
        "::error title=gradlint (GL102 requires-grad-on-module),file=a%2Cb.py,line=9,col=9,endLine=9,endColumn=40::"
        "a,b.py:9:9: GL102 "
    )
    assert line[1] == "::error title=gradlint::gone.py: there is no such file or folder"


def test_output_file(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py", "--output-format", "json", "--output-file", "out.json")
    assert (result.code, result.out, len(json.loads((folder / "out.json").read_text())["findings"])) == (1, "", 1)


def test_output_file_that_cannot_be_written(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", "m.py", "--output-file", "gone/out.txt")
    assert (result.code, "--output-file gone/out.txt: cannot be written" in result.err) == (2, True)


@each(
    ("output_format", "expected"),
    [("full", "1  GL102  [*]  requires-grad-on-module\n1  GL601  [ ]  softmax-before-cross-entropy\n"), ("json", None)],
)
def test_statistics(run: Run, folder: Path, output_format: str, expected: str | None) -> None:
    write(folder / "m.py", TWO)
    out = run("check", "m.py", "--statistics", "--output-format", output_format).out
    if expected is None:
        assert [(r["code"], r["count"]) for r in json.loads(out)["statistics"]] == [("GL102", 1), ("GL601", 1)]
    else:
        assert out == expected


@each("output_format", ["full", "concise"])
def test_quiet_is_silent_when_clean(run: Run, folder: Path, output_format: str) -> None:
    write(folder / "m.py", source("x = 1\n"))
    result = run("check", "m.py", "--quiet", "--output-format", output_format)
    assert (result.code, result.out, result.err) == (0, "", "")


def test_quiet_shows_findings_and_nothing_else(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    shown = run("check", "m.py", "-q").out
    assert ("GL102" in shown, "source rules" in shown, "fixable" in shown) == (True, False, False)


def test_exit_zero(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    assert (run("check", "m.py", "--exit-zero").code, run("check", "gone.py", "--exit-zero").code) == (0, 2)


@each(
    ("arguments", "said"),
    [
        (["m.py", "--stdin-filename", "x.py"], "give - as a target"),
        (["m.py", "--add-ignores", "--fix"], "--add-ignores cannot be combined"),
        (["-", "--add-ignores"], "--add-ignores cannot change stdin"),
        (["m.py", "--write-baseline", "b.json", "--fix"], "--write-baseline cannot be combined"),
        (["m.py", "--statistics", "--output-format", "sarif"], "--statistics has no sarif format"),
        (["m.py", "--config", "gone.toml"], "gone.toml: cannot be read"),
        (["m.py", "--config", "c.toml", "--isolated"], "exclude each other"),
    ],
)
def test_options_that_make_no_sense_together(run: Run, folder: Path, arguments: list[str], said: str) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    result = run("check", *arguments)
    assert (result.code, said in result.err) == (2, True), result.err


def test_settings_are_shown(run: Run, folder: Path) -> None:
    write(folder / "gradlint.toml", "select = ['GL1']\n")
    shown = run("show-settings", "m.py").out
    assert shown.startswith(f"# {folder / 'gradlint.toml'}\n") and 'select = ["GL1"]' in shown


# init


def test_init_writes_what_can_be_checked(run: Run, folder: Path) -> None:
    write(folder / "net.py", FROZEN_WRONG.replace(".requires_grad = False", ".requires_grad_(False)"))
    assert run("init", "net.py").code == 0
    assert run("check", "net_build.py:build", "--input", "2,3").code == 0


def test_init_knows_the_outer_class_and_leaves_gaps(run: Run, folder: Path) -> None:
    write(folder / "pkg" / "__init__.py", "")
    text = source(
        """
        class Block(nn.Module):
            def forward(self, x):
                return x

        class VisionNet(nn.Module):
            def __init__(self, width, *, depth, drop=0.1):
                super().__init__()
                self.block = Block()

            def forward(self, image, mask):
                return self.block(image)
        """
    )
    write(folder / "pkg" / "net.py", text)
    shown = run("init", "pkg/net.py", "-o", "-").out
    compile(shown, "build.py", "exec")
    assert "from pkg.net import VisionNet\n" in shown and "VisionNet(width=width, depth=depth)" in shown
    assert "model.block" in shown and "forward(image, mask)" in shown and "Block()" not in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [("x = 1\n", "no class in it"), ("def (\n", "cannot be parsed"), (None, "cannot be read")],
)
def test_init_says_what_is_in_its_way(run: Run, folder: Path, text: str | None, said: str) -> None:
    if text is not None:
        write(folder / "net.py", text)
    assert said in (result := run("init", "net.py")).err and result.code == 2


def test_init_overwrites_nothing(run: Run, folder: Path) -> None:
    write(folder / "net.py", FROZEN_WRONG)
    write(folder / "net_build.py", "mine")
    assert (run("init", "net.py").code, (folder / "net_build.py").read_text()) == (2, "mine")
