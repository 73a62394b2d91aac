"""Safe edits do what they say: applied to the fixture that they were found in, the finding goes and none comes."""

from __future__ import annotations

import pytest
import table
from cases import each

from gradlint import Severity


def edited(builder):
    """The source of a builder's file with all safe edits of its findings made; None where there are none."""
    edits = {e for f in table.report(builder.target).findings if f.fix is not None and f.fix.safe for e in f.fix.edits}
    lines = builder.path.read_text(encoding="utf-8").splitlines(keepends=True)
    for edit in sorted(edits, key=lambda e: e.location, reverse=True):
        at = edit.location
        assert at.end_line in (0, at.line), "an edit of one line"
        text = lines[at.line - 1]
        lines[at.line - 1] = text[: at.column - 1] + edit.text + text[at.end_column - 1 :]
    return "".join(lines) if edits else None


BUILDERS = [
    b
    for path in (*table.fixture_files(), *sorted((table.FIXTURES / "real").glob("mistakes*.py")))
    for b in table.builders(path, "bad_")
    if {"misspelled-requires-grad", "requires-grad-on-module", "frozen-parameter-in-optimizer"}
    & {a.rule for a in b.annotations}
]
"""Those of the rules that give edits."""


def loud(report):
    return sorted((f.code, f.parameters) for f in report.findings if f.severity > Severity.INFO)


@each("builder", BUILDERS[::3], ids=lambda b: b.id)
def test_edits_make_the_finding_go(builder, tmp_path):
    check_edits(builder, tmp_path)


@pytest.mark.slow
@each("builder", [b for b in BUILDERS if b not in BUILDERS[::3]], ids=lambda b: b.id)
def test_all_edits_make_the_finding_go(builder, tmp_path):
    check_edits(builder, tmp_path)


def check_edits(builder, tmp_path):
    source = edited(builder)
    if source is None:  # then words have to do
        assert all(f.fix is not None and f.fix.description for f in table.report(builder.target).findings)
        return
    path = tmp_path / builder.path.name
    path.write_text(source, encoding="utf-8")
    before = table.report(builder.target)
    after = table.report(f"{path}:{builder.name}")
    gone = {f.code for f in before.findings if f.fix is not None and f.fix.safe}
    assert not after.errors, after.errors
    assert not [f for f in after.findings if f.code in gone and f.severity > Severity.INFO], table.names_of(
        "after", after
    )
    # the next thing to be said: what is frozen in earnest now may be in an optimizer, a buffer that needs grad in none
    come = {(code, names) for code, names in loud(after) if code not in ("GL301", "GL105")} - set(loud(before))
    assert not come, table.names_of("after", after)


@pytest.mark.parametrize(
    "rule", ["misspelled-requires-grad", "requires-grad-on-module", "frozen-parameter-in-optimizer"]
)
def test_a_rule_that_says_so_gives_edits(rule):
    own = [b for b in BUILDERS if rule in {a.rule for a in b.annotations}]
    assert sum(edited(b) is not None for b in own) >= 2
