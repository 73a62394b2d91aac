"""--select, --ignore and --extend-select."""

from __future__ import annotations

import pytest
from cases import each

from gradlint.errors import UsageError
from gradlint.findings import Finding, Report, Severity
from gradlint.rulekit.registry import Registry
from gradlint.rulekit.rule import Rule
from gradlint.rulekit.selection import lookup, select
from gradlint.triage import filters
from gradlint.wording import nearest


def rule(code: str, name: str) -> type[Rule]:
    return type(name, (Rule,), {"code": code, "name": name, "severity": Severity.ERROR})


REGISTRY = Registry(
    (
        rule("GL301", "frozen-parameter-in-optimizer"),
        rule("GL401", "detached-upstream"),
        rule("GL402", "no-grad-upstream"),
        rule("GL411", "missing-create-graph"),
    )
)
ALL = ["GL301", "GL401", "GL402", "GL411"]


@each(
    ("chosen", "ignored", "added", "expected"),
    [
        ([], [], [], ALL),
        (["ALL"], [], [], ALL),
        (["GL"], [], [], ALL),
        (["GL401"], [], [], ["GL401"]),
        (["gl401"], [], [], ["GL401"]),
        (["GL4"], [], [], ["GL401", "GL402", "GL411"]),
        (["GL40"], [], [], ["GL401", "GL402"]),
        (["detached-upstream"], [], [], ["GL401"]),
        (["GL301,GL411"], [], [], ["GL301", "GL411"]),
        (["GL301", "GL411"], [], [], ["GL301", "GL411"]),
        ([], ["GL4"], [], ["GL301"]),
        ([], ["detached-upstream"], [], ["GL301", "GL402", "GL411"]),
        (["GL4"], ["GL40"], [], ["GL411"]),
        (["GL40"], ["GL4"], [], ["GL401", "GL402"]),
        (["GL401"], ["GL4"], [], ["GL401"]),
        (["GL401"], ["GL401"], [], []),
        (["ALL"], ["ALL"], [], []),
        (["GL3"], [], ["GL401"], ["GL301", "GL401"]),
        ([], ["GL4"], ["GL401"], ["GL301", "GL401"]),
        (["GL301"], [], ["missing-create-graph"], ["GL301", "GL411"]),
    ],
)
def test_most_specific_selector_decides(
    chosen: list[str], ignored: list[str], added: list[str], expected: list[str]
) -> None:
    assert [rule.code for rule in select(REGISTRY, chosen, ignored, added).rules] == expected


@each(
    ("selector", "hint"),
    [
        ("GL410", "GL411"),
        ("GL9", "GL"),
        ("detached-upsteam", "did you mean detached-upstream"),
        ("no_grad_upstream", "did you mean no-grad-upstream"),
        ("nonsense", "`gradlint rules` lists them"),
    ],
)
def test_unknown_selector_names_the_nearest(selector: str, hint: str) -> None:
    for option in ("select", "ignore", "extend_select"):
        with pytest.raises(UsageError, match=hint):
            select(REGISTRY, **{option: [selector]})


@each(
    ("chosen", "added", "show_info", "shown"),
    [
        ([], [], False, 0),
        ([], [], True, 1),
        (["GL4"], [], False, 0),
        (["ALL"], [], False, 0),
        (["GL401"], [], False, 1),
        (["detached-upstream"], [], False, 1),
        ([], ["GL401"], False, 1),
    ],
)
def test_info_is_shown_when_asked_for(chosen: list[str], added: list[str], show_info: bool, shown: int) -> None:
    info = Finding("m.py:build", "GL401", "detached-upstream", Severity.INFO, "x", None)
    report = filters.shown(Report(findings=[info]), [select(REGISTRY, chosen, (), added)], show_info=show_info)
    assert (len(report.findings), report.hidden) == (shown, 1 - shown)


def test_own_code_can_be_ignored() -> None:
    assert "GL003" not in select(REGISTRY, ignore=["GL003"]).codes


def test_own_code_counts_by_default() -> None:
    assert "GL003" in select(REGISTRY).codes


@each(("wanted", "code"), [("GL401", "GL401"), ("gl401", "GL401"), ("partial-recording", "GL003")])
def test_lookup(wanted: str, code: str) -> None:
    assert lookup(REGISTRY, wanted).code == code


@each("wanted", ["GL4", "ALL", "", "GL999"])
def test_lookup_wants_one_rule(wanted: str) -> None:
    with pytest.raises(UsageError):
        lookup(REGISTRY, wanted)


@each(("word", "near"), [("chek", "check"), ("CHECK", "check"), ("zzz", None), ("", None)])
def test_nearest(word: str, near: str | None) -> None:
    assert nearest(word, ["check", "rule", "rules", "why"]) == near
