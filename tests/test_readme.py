"""What the README and the manual say of the rules and of the command line is true."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import picture
import pytest

from gradlint.cli import main
from gradlint.cli.app import check
from gradlint.report.catalogue import summary
from gradlint.rulekit import registry

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MANUAL = (ROOT / "gradlint" / "cli" / "manual.md").read_text(encoding="utf-8")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="code has columns since Python 3.11")
def test_first_report_is_what_is_printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    [shown] = re.findall(r"```\n(GL401 .*?)```", README, re.S)
    monkeypatch.chdir(ROOT)
    assert main(["check", "fixtures/founding/detach_in_chain.py:build", "--isolated"]) == 1
    assert capfd.readouterr().out.startswith(shown)


def test_rules_listed_are_as_listed() -> None:
    rows = re.findall(r"^\| (GL\d+) \| `([a-z-]+)` \| (\w+) \| (.+) \|$", MANUAL, re.M)
    known = {e.code: (e.name, str(e.severity), summary(e)) for e in registry.load(packs=False).entries}
    assert {code: tuple(rest) for code, *rest in rows} == known, "python tests/kit/generate.py"


def test_source_rules_listed_are_those_there_are() -> None:
    [sentence] = re.findall(r"reads it and runs nothing\. (GL.*?) report a mistake", MANUAL, re.S)
    listed: set[str] = set()
    for first, last in re.findall(r"GL(\d+)(?: to GL(\d+))?", sentence):
        listed |= {f"GL{number}" for number in range(int(first), int(last or first) + 1)}
    assert listed == {rule.code for rule in registry.load(packs=False).rules if rule.judges_source()}


def test_options_listed_exist_and_are_all_listed() -> None:
    [table] = re.findall(r"\| option of `check` \| meaning \|\n((?:\|.*\n)+)", MANUAL)
    real = {o for p in check.params for o in p.opts if o.startswith("--")}
    assert set(re.findall(r"--[a-z-]+[a-z]", re.sub(r"(?m)^\|([^|]*)\|.*$", r"\1", table.replace(r"\|", "/")))) == real


def test_exit_codes_are_as_listed() -> None:
    from gradlint.cli import exits

    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", MANUAL, re.M)}
    assert listed == {exits.CLEAN, exits.FOUND, exits.FAILED, exits.INTERRUPTED}


@pytest.mark.slow
def test_summary_is_what_is_printed(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    [shown] = re.findall(r"```\n(module .*?)```", MANUAL, re.S)
    monkeypatch.chdir(ROOT)
    assert main(["summary", "fixtures/real/text.py:good_bert_frozen_encoder", "--isolated"]) == 0
    assert capfd.readouterr().out.endswith(shown)


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 250


def test_the_picture_is_of_the_first_report() -> None:
    assert (ROOT / ".ci" / "finding.svg").read_text(encoding="utf-8") == picture.svg()


def test_the_manual_is_printed_by_chapters(capfd: pytest.CaptureFixture[str]) -> None:
    assert (main(["manual", "contr"]), main(["manual", "no such"])) == (0, 2)
    assert capfd.readouterr().out.startswith("## Contracts\n")
    main(["manual"])
    assert capfd.readouterr().out == MANUAL
