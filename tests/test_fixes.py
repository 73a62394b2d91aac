"""Fixes: what is written, what is left alone, and that it does what it says."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest
from cases import each
from hypothesis import given
from hypothesis import strategies as st
from snippets import FROZEN_WRONG, Run, folder, run, source, write

from gradlint.findings import Edit, Finding, Fix, Severity
from gradlint.location import Location
from gradlint.rulekit import registry
from gradlint.source.text import SourceText
from gradlint.triage.fixes import fix_text

__all__ = ["folder", "run"]

FIXED = FROZEN_WRONG.replace("requires_grad = False", "requires_grad_(False)")


def finding(*edits: tuple[int, int, int, int, str], safe: bool = True, path: str = "m.py") -> Finding:
    made = tuple(Edit(Location(path, a, b, c, d), text) for a, b, c, d, text in edits)
    return Finding("m", "GL102", "x", Severity.ERROR, "m", Location(path, edits[0][0]), fix=Fix("do", safe, made))


def cases(how: str = "") -> dict[str, tuple[str, str, str]]:
    """Title → (code, before, after) of the blocks of fix_cases.md."""
    return {
        title: (code, before, after)
        for code, title, before, after in re.findall(
            rf"^## {how}(GL\d+): ([^\n]+)\n\n```python\n(.*?)```\n\n```python\n(.*?)```",
            (Path(__file__).parent / "fix_cases.md").read_text(encoding="utf-8"),
            re.MULTILINE | re.DOTALL,
        )
    }


CASES, UNSAFE = cases(), cases("Unsafe ")


def whole(text: str) -> str:
    """A block as a file: with the usual imports, unless it has its own."""
    return text if "import " in text else source(text)


@each("what", CASES)
def test_fix_does_away_with_its_finding(run: Run, folder: Path, what: str) -> None:
    code, before, after = CASES[what]
    path = write(folder / "m.py", source(before))
    assert code in run("check", "m.py", "--output-format", "concise").out
    assert (run("check", "m.py", "--fix").code, path.read_text()) == (0, source(after))


@each("what", CASES)
def test_fixing_twice_is_fixing_once(run: Run, folder: Path, what: str) -> None:
    path = write(folder / "m.py", source(CASES[what][1]))
    run("check", "m.py", "--fix")
    once = path.read_bytes()
    run("check", "m.py", "--fix")
    assert path.read_bytes() == once


@each("what", UNSAFE)
def test_unsafe_fix_is_made_when_asked_for(run: Run, folder: Path, what: str) -> None:
    _, before, after = UNSAFE[what]
    path = write(folder / "m.py", whole(before))
    assert (run("check", "m.py", "--fix").code, path.read_text()) == (1, whole(before))
    run("check", "m.py", "--fix", "--unsafe-fixes")
    assert path.read_text() == whole(after)


@each(
    ("encoding", "cookie", "text"),
    [
        ("utf-8", "", "é"),
        ("utf-8-sig", "", "日本"),
        ("latin-1", "# -*- coding: latin-1 -*-\n", "é"),
        ("cp1251", "# coding: cp1251\n", "ж"),
    ],
)
def test_encoding_and_line_ends_are_kept(run: Run, folder: Path, encoding: str, cookie: str, text: str) -> None:
    for newline in ("\n", "\r\n", "\r"):
        before = f"{cookie}name = '{text}'\n{FROZEN_WRONG}".replace("\n", newline).encode(encoding)
        path = write(folder / "m.py", before)
        assert run("check", "m.py", "--fix").code == 0, repr(newline)
        after = f"{cookie}name = '{text}'\n{FIXED}".replace("\n", newline).encode(encoding)
        assert path.read_bytes() == after, repr(newline)


def test_only_the_span_changes(run: Run, folder: Path) -> None:
    odd = FROZEN_WRONG.replace(
        "self.body.requires_grad = False", "日 = 1; self.body.requires_grad=False ; x  =  2\t# kept"
    )
    path = write(folder / "m.py", odd.rstrip("\n"))
    run("check", "m.py", "--fix")
    assert path.read_text(encoding="utf-8") == odd.rstrip("\n").replace(
        "self.body.requires_grad=False", "self.body.requires_grad_(False)"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes and links")
def test_mode_and_links_are_kept(run: Run, folder: Path) -> None:
    path = write(folder / "real.py", FROZEN_WRONG)
    path.chmod(0o754)
    os.symlink(path, folder / "link.py")
    run("check", "link.py", "--fix")
    assert (path.stat().st_mode & 0o777, (folder / "link.py").is_symlink(), path.read_text()) == (0o754, True, FIXED)


# Exit codes and what is shown


@each(
    ("arguments", "code", "written"),
    [
        (["--fix"], 0, True),
        (["--diff"], 1, False),
        (["--diff", "--exit-zero"], 0, False),
        (["--fix-only"], 0, True),
        ([], 1, False),
    ],
)
def test_exit_codes(run: Run, folder: Path, arguments: list[str], code: int, written: bool) -> None:
    path = write(folder / "m.py", FROZEN_WRONG)
    assert run("check", "m.py", *arguments).code == code
    assert path.read_text() == (FIXED if written else FROZEN_WRONG)


def test_what_is_left_fails(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG + "\ndef loss(x, y):\n    return F.cross_entropy(x.softmax(1), y)\n")
    result = run("check", "m.py", "--fix")
    assert (result.code, "1 fixed" in result.out, "GL601" in result.out, "GL102" in result.out) == (
        1,
        True,
        True,
        False,
    )


def test_fix_only_does_not_fail_on_what_is_left(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG + "\ndef loss(x, y):\n    return F.cross_entropy(x.softmax(1), y)\n")
    result = run("check", "m.py", "--fix-only")
    assert (result.code, result.out, result.err) == (0, "", "fixed 1 finding\n")


def test_diff_can_be_applied(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    lines = run("check", "m.py", "--diff").out.splitlines()
    assert lines[:2] == ["--- a/m.py", "+++ b/m.py"]
    assert [line for line in lines[2:] if line[0] in "+-"] == [
        "-        self.body.requires_grad = False", "+        self.body.requires_grad_(False)",
    ]  # fmt: skip


def test_nothing_to_fix_is_no_diff(run: Run, folder: Path) -> None:
    write(folder / "m.py", FIXED)
    assert (result := run("check", "m.py", "--diff")).code == 0 and result.out == ""


def test_silenced_findings_are_not_fixed(run: Run, folder: Path) -> None:
    text = FROZEN_WRONG.replace("= False", "= False  # gradlint: ignore[GL102]")
    path = write(folder / "m.py", text)
    run("check", "m.py", "--fix")
    assert path.read_text() == text


def test_findings_of_a_recording_are_fixed_and_the_rest_moves_along(run: Run, folder: Path) -> None:
    text = FROZEN_WRONG.replace(
        "        self.body.requires", "        # gradlint: ignore[GL413]\n        self.body.requires"
    ).replace("self.body(x)", "self.body(x).detach()")
    path = write(
        folder / "m.py",
        text + "\ndef build():\n    model = Net()\n    return {'model': model, 'inputs': (torch.randn(2, 3),)}\n",
    )
    rows = json.loads(run("check", "m.py:build", "m.py", "--fix", "--output-format", "json").out)["findings"]
    lines = path.read_text().splitlines()
    assert "self.body.requires_grad_(False)" in lines[8]
    assert all("detach" in lines[row["line"] - 1] for row in rows if row["code"] == "GL401")


# Edits


@each(
    ("findings", "expected", "refused"),
    [
        ([finding((1, 1, 1, 2, "b"))], "b = 1\n", []),
        ([finding((1, 1, 1, 2, "b")), finding((1, 1, 1, 6, "c"))], "b = 1\n", ["it overlaps another fix"]),
        ([finding((1, 1, 1, 2, "b")), finding((1, 1, 1, 2, "b"))], "b = 1\n", []),
        ([finding((1, 1, 1, 2, "(("))], "a = 1\n", ["it would leave a syntax error"]),
        ([finding((1, 1, 1, 2, "((")), finding((1, 5, 1, 6, "2"))], "a = 2\n", ["it would leave a syntax error"]),
        ([finding((1, 1, 1, 2, "("), (1, 5, 1, 6, ")"))], "a = 1\n", ["it would leave a syntax error"]),
        ([finding((1, 1, 1, 2, "b"), safe=False)], "a = 1\n", []),
        ([finding((1, 1, 1, 2, "b"), path="other.py")], "a = 1\n", ["it reaches into another file"]),
    ],
)  # fmt: skip
def test_edits_are_made_whole_or_not_at_all(findings: list[Finding], expected: str, refused: list[str]) -> None:
    fixed = fix_text(SourceText("m.py", b"a = 1\n"), findings)
    assert (fixed.text, [reason for _, reason in fixed.refused]) == (expected, refused)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4),
            st.integers(1, 9),
            st.integers(0, 3),
            st.integers(0, 6),
            st.sampled_from(["", "x", "é\n", "("]),
        ),
        max_size=5,
    ),
    st.sampled_from(["\n", "\r\n", "\r"]),
)
def test_any_edits_leave_what_parses(spans: list[tuple[int, int, int, int, str]], newline: str) -> None:
    text = newline.join(["é = 1", "日本 = 'x'", "", "c = (1,"]) + newline + ")" + newline
    fixed = fix_text(
        SourceText("m.py", text.encode()), [finding((a, b, a + c, b + d, new)) for a, b, c, d, new in spans]
    )
    ast.parse(fixed.text)
    assert len(fixed.applied) + len(fixed.refused) == len(spans)


def test_rules_that_make_edits_say_so() -> None:
    folder = Path(__file__).resolve().parent.parent / "rules"
    rules = registry.load(packs=False).rules
    making = {rule.code for rule in rules if "edits=" in (folder / f"{rule.name.replace('-', '_')}.py").read_text()}
    assert {rule.code for rule in rules if rule.fixable} == making
