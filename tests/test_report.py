"""How reports look: full, concise and JSON, on any terminal and with any source."""

from __future__ import annotations

import fnmatch
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from cases import each
from hypothesis import given, settings
from hypothesis import strategies as st

from gradlint.findings import Edit, Failure, Finding, Fix, Note, Related, Report, Severity, Skipped, TargetSummary
from gradlint.location import Location
from gradlint.report import as_json, catalogue, concise, full
from gradlint.report.excerpt import excerpt
from gradlint.report.summary import summary
from gradlint.report.view import View, cells, shown_path, wrap
from gradlint.wording import fold_names, plural

TARGET = "model.py:build"
SEEN = TargetSummary(TARGET, "float32[2, 3] (searched)", "output.loss", 412, 410, 2, 0, 0, 410, 85_100_000,
                     (("AdamW", 410),), 1.25)  # fmt: skip


def finding(message: str = "cut", location: Location | None = None, **more: Any) -> Finding:
    more.setdefault("severity", Severity.ERROR)
    return Finding(TARGET, "GL401", "detached-upstream", message=message, location=location, **more)


def source(folder: Path, text: str, name: str = "model.py") -> str:
    path = folder / name
    path.write_bytes(text.encode())
    return str(path)


def rows(path: str, line: int, *span: int, width: int = 80, view: View | None = None, context: int = 0) -> list[str]:
    found = excerpt(Location(path, line, *span), view or View(), width, context)
    return [part for row in found for part in (row.text, row.marks) if part]


# The excerpt


@each(
    ("text", "span", "expected"),
    [
        pytest.param("x = f(y)", (5, 1, 9), ["x = f(y)", "    ^^^^"], id="plain"),
        pytest.param("x = f(y)", (5,), ["x = f(y)", "    ^^^^"], id="end unknown"),
        pytest.param("    x = 1", (1,), ["    x = 1", "    ^^^^^"], id="whole line leaves its indentation"),
        pytest.param("\tx = 1", (2, 1, 3), ["    x = 1", "    ^"], id="tab"),
        pytest.param("ab\tx", (4, 1, 5), ["ab  x", "    ^"], id="tab inside"),
        pytest.param("日本 = f()", (6, 1, 9), ["日本 = f()", "       ^^^"], id="wide before"),
        pytest.param('f("日本")', (3, 1, 7), ['f("日本")', "  ^^^^^^"], id="wide inside"),
        pytest.param("e\u0301 = f()", (6, 1, 9), ["e\u0301 = f()", "    ^^^"], id="combining"),
        pytest.param("a\x1b[31m = 1", (1, 1, 2), ["a\\x1b[31m = 1", "^"], id="escape sequence"),
        pytest.param("x = 1", (40, 1, 50), ["x = 1", "     ^"], id="column beyond the line"),
        pytest.param("x = 1", (3, 1, 99), ["x = 1", "  ^^^"], id="end beyond the line"),
        pytest.param("x = 1", (3, 1, 2), ["x = 1", "  ^"], id="end before the start"),
        pytest.param("", (1,), ["^"], id="empty line"),
        pytest.param("x = [\n  1,\n]", (5, 3, 2), ["x = [", "    ^", "  1,", "  ^^", "]", "^"], id="several lines"),
    ],
)
def test_span_is_underlined(tmp_path: Path, text: str, span: tuple[int, ...], expected: list[str]) -> None:
    assert rows(source(tmp_path, text), 1, *span) == expected


@each("text", ["a\r\nb\r\nc = 1\r\n", "a\rb\rc = 1\r", "\ufeffa\nb\nc = 1", "a\n\x0cb\nc = 1\n"])
def test_lines_are_counted_as_python_does(tmp_path: Path, text: str) -> None:
    assert rows(source(tmp_path, text), 3, 1, 3, 2) == ["c = 1", "^"]


def test_declared_encoding_is_used(tmp_path: Path) -> None:
    path = tmp_path / "latin.py"
    path.write_bytes("# coding: latin-1\nü = 1\n".encode("latin-1"))
    assert rows(str(path), 2, 1, 2, 2) == ["ü = 1", "^"]


@each("line", [0, -1, 3, 10_000])
def test_line_that_is_not_there_gives_no_excerpt(tmp_path: Path, line: int) -> None:
    assert rows(source(tmp_path, "a\nb"), line) == []


def test_missing_file_gives_no_excerpt(tmp_path: Path) -> None:
    assert rows(str(tmp_path / "gone.py"), 1) == []


def test_span_of_a_long_line_stays_in_sight(tmp_path: Path) -> None:
    line = "a" * 300 + "BLAMED" + "b" * 300
    text, marks = rows(source(tmp_path, line), 1, 301, 1, 307, width=40)
    assert text[marks.index("^") : marks.rindex("^") + 1] == "BLAMED"


def test_long_span_leaves_out_its_middle(tmp_path: Path) -> None:
    path = source(tmp_path, "\n".join(f"line{n}" for n in range(1, 21)))
    texts = [row.text for row in excerpt(Location(path, 1, 1, 20, 5), View(), 60, 0)]
    assert texts == ["line1", "line2", "line3", "line4", "...", "line20"]


def test_context_is_shown_without_blank_edges(tmp_path: Path) -> None:
    path = source(tmp_path, "a\n\nb\n\nc\n")
    assert [row.text for row in excerpt(Location(path, 3), View(), 60, 1)] == ["b"]


@each("encoding", ["ascii", "cp1252"])
def test_underline_fits_what_the_encoding_makes_of_the_source(tmp_path: Path, encoding: str) -> None:
    text, marks = rows(source(tmp_path, '"日" + x'), 1, 7, 1, 8, view=View(encoding=encoding))
    assert text[marks.index("^")] == "x"


# Whole reports


def everything(folder: Path) -> Report:
    path = source(folder, "import torch\n\ndef build():\n    h = enc(x).detach()\n    return h\n")
    return Report(
        findings=[
            finding(
                "detach() starves encoder.* (2 parameters)",
                Location(path, 4, 9, 4, 24),
                parameters=("encoder.weight", "encoder.bias"),
                related=(Related("optimizer made here", Location(path, 5, 5)),),
                fix=Fix("drop it", True, (Edit(Location(path, 4, 15, 4, 24), ""),)),
            ),
            finding("nowhere", None, severity=Severity.WARNING),
        ],
        skipped=[Skipped(TARGET, code, "no optimizer given") for code in ("GL301", "GL302", "GL303", "GL305")],
        errors=[Failure("b.py:build", "build() raised", "Traceback (most recent call last):\n  boom")],
        notes=[Note(TARGET, "not recorded: body", "GL003", Location(path, 3)), Note("b.py:build", "on the CPU")],
        targets=[SEEN],
        hidden=2,
    )


def render(report: Report, folder: Path, **view: Any) -> str:
    return full.render(report, View(root=folder, **view))


@each(
    "part",
    [
        "GL401 detached-upstream  error\n  model.py:4:9\n",
        "  4 |     h = enc(x).detach()\n    |         ^^^^^^^^^^^^^^^\n",
        "  detach() starves encoder.* (2 parameters)\n",
        "  optimizer made here: model.py:5:5\n    5 |     return h\n",
        "  fix: drop it\n",
        "GL401 detached-upstream  warning\n  model.py:build\n",
        "error b.py:build\n  build() raised\n\n  Traceback (most recent call last):\n    boom\n",
        "model.py:build: 412 tensors, 85.1M parameters: 410 train, 2 frozen, 0 without\n",
        "  inputs: float32[2, 3] (searched)\n  loss: output.loss\n",
        "  note GL003: not recorded: body (model.py:3)\n",
        "note: on the CPU\n",
        "  skipped: 4 rules (no optimizer given)\n",
        "1 target could not be checked, 1 error, 1 warning, 2 info hidden (--show-info),\n1 fixable with --fix\n",
    ],
)
def test_full_report_holds(tmp_path: Path, part: str) -> None:
    assert part in render(everything(tmp_path), tmp_path)


def test_verbose_names_the_skipped_rules(tmp_path: Path) -> None:
    text = render(everything(tmp_path), tmp_path, verbose=True)
    assert "skipped: GL301, GL302, GL303, GL305 (no optimizer given)" in text


@each("terminal", [True, False])
def test_box_characters_are_for_terminals(tmp_path: Path, terminal: bool) -> None:
    assert render(everything(tmp_path), tmp_path, terminal=terminal).isascii() is not terminal


@each("color", [True, False])
def test_colour_codes_only_with_colour(tmp_path: Path, color: bool) -> None:
    assert ("\x1b[" in render(everything(tmp_path), tmp_path, color=color)) is color


@each("width", [80, 40])
def test_no_line_is_wider_than_the_view(tmp_path: Path, width: int) -> None:
    report = everything(tmp_path)
    report.findings.append(finding("some parameters", parameters=tuple(f"block{n}.weight" for n in range(40))))
    assert max(cells(line) for line in render(report, tmp_path, width=width).splitlines()) <= width


def test_missing_source_is_said(tmp_path: Path) -> None:
    report = Report(findings=[finding(location=Location(str(tmp_path / "gone.py"), 3))])
    assert "gone.py:3:1\n  (source not available)\n" in render(report, tmp_path)


@each(
    ("message", "listed"),
    [
        ("starves a.weight and a.bias", False),
        ("starves a.* (2 parameters)", False),
        ("starves a.weight and 1 more", True),
        ("starves something", True),
        ("starves * everything", True),
    ],
)
def test_parameters_are_listed_unless_the_message_names_them(tmp_path: Path, message: str, listed: bool) -> None:
    report = Report(findings=[finding(message, parameters=("a.weight", "a.bias"))])
    assert ("parameters: a.* (2 tensors)" in render(report, tmp_path)) is listed


def test_long_lists_are_folded(tmp_path: Path) -> None:
    report = Report(findings=[finding("some", parameters=tuple(f"m{n}" for n in range(24)))])
    assert "m11, ... and 12 more" in render(report, tmp_path, width=200)


def test_many_targets_take_a_line_each(tmp_path: Path) -> None:
    assert len(render(Report(targets=[SEEN] * 9), tmp_path, width=120).splitlines()) == 9 + 2


@each(
    ("report", "closing"),
    [
        (Report(targets=[SEEN]), "no findings"),
        (Report(targets=[SEEN, SEEN]), "no findings in 2 targets"),
        (Report(errors=[Failure("x", "y")]), "1 target could not be checked"),
        (Report(), "nothing was checked"),
        (Report(findings=[finding(severity=Severity.INFO)], targets=[SEEN]), "1 info finding"),
    ],
)
def test_closing_line(tmp_path: Path, report: Report, closing: str) -> None:
    assert render(report, tmp_path).splitlines()[-1] == closing


@each(
    ("counts", "optimizers", "expected"),
    [
        ((412, 410, 2, 0, 0, 410, 85_100_000), (("AdamW", 410),),
         "412 tensors, 85.1M parameters: 410 train, 2 frozen, 0 without gradient; AdamW holds 410"),
        ((1, 1, 0, 0, 0, 1, 1), (), "1 tensor, 1 parameter: 1 train, 0 frozen, 0 without gradient; no optimizer"),
        ((9, 8, 1, 2, 3, 3, 36), (("SGD", 1), ("Adam", 2)),
         "9 tensors, 36 parameters: 3 train, 1 frozen, 2 without gradient, 3 unused; SGD holds 1; Adam holds 2"),
        ((9, 9, 0, 0, 0, 4, 36), (("SGD", 4),),
         "9 tensors, 36 parameters: 4 train, 0 frozen, 0 without gradient, 5 unknown; SGD holds 4"),
        ((9, 9, 0, 0, 0, 4, 36, (("SGD", 5),), 0.0, (0, 0), 3, 1), None,
         "9 tensors, 36 parameters: 4 train, 0 frozen, 0 without gradient, 3 not in an optimizer, 1 at zero learning "
         "rate, 1 unknown; SGD holds 5"),
    ],
)  # fmt: skip
def test_summary(counts: tuple[Any, ...], optimizers: tuple[tuple[str, int], ...] | None, expected: str) -> None:
    seen = TargetSummary("m:build", "", "", *counts, *([] if optimizers is None else [optimizers]))
    assert summary(seen) == expected


ANYTHING = st.text(st.characters(), max_size=60)


@settings(max_examples=60, deadline=None)
@given(
    code=ANYTHING, message=ANYTHING, names=st.lists(ANYTHING, max_size=5), text=ANYTHING,
    place=st.tuples(st.integers(-2, 5), st.integers(-2, 70), st.integers(-2, 5), st.integers(-2, 70)),
    width=st.integers(20, 120), encoding=st.sampled_from(["utf-8", "ascii", "cp1252", "no-such-encoding"]),
    terminal=st.booleans(),
)  # fmt: skip
def test_anything_can_be_rendered(
    tmp_path_factory: pytest.TempPathFactory, code: str, message: str, names: list[str], text: str,
    place: tuple[int, int, int, int], width: int, encoding: str, terminal: bool,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("any") / "m.py"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    at = Location(str(path), *place)
    report = Report(
        findings=[finding(message, at, parameters=tuple(names), related=(Related(message, at),), fix=Fix(message))],
        notes=[Note(message, message, "GL003", at)],
        errors=[Failure(message, message, message)],
    )
    view = View(width=width, encoding=encoding, terminal=terminal, root=path.parent)
    shown = full.render(report, view) + concise.render(report, view) + concise.errors(report, view)
    assert not set("\x1b\r\t\x07\x00") & set(shown)
    if encoding != "no-such-encoding":
        shown.encode(encoding)
    json.loads(as_json.render(report, View(root=path.parent)))


# Concise


def test_concise(tmp_path: Path) -> None:
    assert concise.render(everything(tmp_path), View(root=tmp_path)) == (
        "model.py:build: GL401 nowhere\nmodel.py:4:9: GL401 detach() starves encoder.* (2 parameters)\n"
    )


def test_concise_keeps_a_message_on_its_line(tmp_path: Path) -> None:
    report = Report(findings=[finding("one\ntwo\r\nthree")])
    assert concise.render(report, View(root=tmp_path)) == "model.py:build: GL401 one two three\n"


# JSON


def _object(**properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False,
    }  # fmt: skip


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, COUNT, POINT = {"type": "string"}, {"type": "integer", "minimum": 0}, _list({"type": "integer"})
SCHEMA = _object(
    schema={"const": 1},
    findings=_list(
        _object(
            target=TEXT, code=TEXT, name=TEXT, severity={"enum": ["error", "warning", "info"]}, message=TEXT, path=TEXT,
            line=COUNT, column=COUNT, cell=COUNT, end_line=COUNT, end_column=COUNT, parameters=_list(TEXT),
            related=_list(_object(message=TEXT, path=TEXT, line=COUNT, column=COUNT, cell=COUNT)),
            fix={"anyOf": [{"type": "null"}, _object(
                description=TEXT, safe={"type": "boolean"},
                edits=_list(_object(path=TEXT, cell=COUNT, start=POINT, end=POINT, text=TEXT)),
            )]},
            saving={"anyOf": [{"type": "null"}, _object(
                activations=COUNT, gradients=COUNT, optimizer=COUNT, flops=COUNT,
            )]},
        )
    ),
    skipped=_list(_object(target=TEXT, code=TEXT, reason=TEXT)),
    errors=_list(_object(target=TEXT, message=TEXT)),
    notes=_list(_object(target=TEXT, code=TEXT, message=TEXT, path=TEXT, line=COUNT, cell=COUNT)),
    targets=_list(
        _object(
            target=TEXT, inputs=TEXT, loss=TEXT, parameters=COUNT, trainable=COUNT, frozen=COUNT, starved=COUNT,
            unused=COUNT, reached=COUNT, not_in_optimizer=COUNT, zero_rate=COUNT, numel=COUNT,
            optimizers=_list(_object(name=TEXT, parameters=COUNT)),
            seconds={"type": "number"},
        )
    ),
    sources={"anyOf": [{"type": "null"}, _object(
        files=COUNT, judged=COUNT, cached=COUNT, seconds={"type": "number"},
    )]},
    silenced=COUNT,
    baseline=_object(known=COUNT, gone=COUNT),
    fixed=COUNT,
)  # fmt: skip


@each("empty", [True, False])
def test_json_keeps_to_its_schema(tmp_path: Path, empty: bool) -> None:
    report = Report() if empty else everything(tmp_path)
    jsonschema.validate(json.loads(as_json.render(report, View(root=tmp_path))), SCHEMA)


def test_json_spans(tmp_path: Path) -> None:
    found = as_json.document(everything(tmp_path), tmp_path)["findings"][1]
    assert [found[key] for key in ("path", "line", "column", "end_line", "end_column")] == ["model.py", 4, 9, 4, 24]
    assert found["fix"]["edits"] == [{"path": "model.py", "cell": 0, "start": [4, 15], "end": [4, 24], "text": ""}]


def test_json_is_ascii(tmp_path: Path) -> None:
    assert as_json.render(Report(errors=[Failure("ü:b", "日本 \ud800")]), View(root=tmp_path)).isascii()


# Names, paths, text


@each(
    ("names", "expected"),
    [
        (["a"], ["a"]),
        (["a.weight", "a.bias"], ["a.* (2 tensors)"]),
        (["enc.0.w", "enc.1.w", "head.w"], ["enc.* (2 tensors)", "head.w"]),
        (["enc.layer.0.w", "enc.layer.1.w"], ["enc.layer.* (2 tensors)"]),
        (["a", "a.b"], ["a", "a.b"]),
        (["a.w", "a.w"], ["a.w"]),
        ([], []),
    ],
)
def test_fold_names(names: list[str], expected: list[str]) -> None:
    assert fold_names(names) == expected


NAMES = st.lists(st.lists(st.sampled_from(["0", "1", "a", "b", "weight"]), min_size=1, max_size=4).map(".".join))


@settings(deadline=None)
@given(names=NAMES)
def test_every_name_is_counted_once_and_matched(names: list[str]) -> None:
    labels = [label.partition(" (") for label in fold_names(names)]
    assert sum(int(counted.split()[0]) if counted else 1 for _, _, counted in labels) == len(set(names))
    assert all(any(fnmatch.fnmatchcase(name, pattern) for pattern, _, _ in labels) for name in names)


@each(
    ("path", "shown"),
    [
        ("/a/b/c/m.py", "c/m.py"),
        ("/a/b", "."),
        ("/a/x.py", "/a/x.py"),
        ("/a/bc/x.py", "/a/bc/x.py"),
        ("<string>", "<string>"),
        ("", ""),
    ],
)
def test_shown_path(path: str, shown: str) -> None:
    assert shown_path(path, Path("/a/b")) == shown


def test_path_below_a_linked_folder_is_relative(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert shown_path(str(tmp_path / "real" / "m.py"), tmp_path / "link") == "m.py"


@settings(deadline=None)
@given(text=ANYTHING, width=st.integers(8, 60))
def test_wrap_keeps_the_text_and_the_width(text: str, width: int) -> None:
    clean = View().clean(text)
    lines = wrap(clean, width)
    assert all(cells(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(clean.split())


@each(("count", "text"), [(0, "0 errors"), (1, "1 error"), (2, "2 errors")])
def test_plural(count: int, text: str) -> None:
    assert plural(count, "error") == text


# Rule documentation


@each(
    ("doc", "expected"),
    [
        ("Summary.\n\nWhat it does\n    Things.", "Summary."),
        ("What it does\n------------\nThings\nhappen.\n\nMore.", "Things happen."),
        ("## What it does\n\nThings.", "Things."),
        ("", ""),
    ],
)
def test_summary_of_a_rule(doc: str, expected: str) -> None:
    own = catalogue.OwnCode("GL003", "x", Severity.INFO, doc)
    assert catalogue.summary(own) == expected


@each(
    ("doc", "markdown"),
    [
        ("What it does\n    Things.", "\n\n## What it does\n\nThings."),
        ("What it does:\n-------------\nThings.", "\n\n## What it does\n\nThings."),
        ("Example\n    x = f(1)", "\n\n## Example\n\n```python\nx = f(1)\n```"),
        ("Example\n    ```python\n    x = 1\n    ```", "\n\n## Example\n\n```python\nx = 1\n```"),
        ("Use instead\n    Nothing.", "\n\n## Use instead\n\nNothing."),
    ],
)
def test_documentation_becomes_markdown(doc: str, markdown: str) -> None:
    assert catalogue.as_markdown(doc) == markdown
