"""The pages of all rules, links to them, and the edits that the full report shows."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from cases import each
from snippets import FROZEN_WRONG, Run, folder, run, write

from gradlint.report.links import address_of, with_links
from gradlint.rulekit import registry

__all__ = ["folder", "run"]


def test_all_rules_are_one_markdown_page(run: Run) -> None:
    out = run("rule", "--all", "--output-format", "markdown").out
    codes = [entry.code for entry in registry.load(packs=False).entries]
    assert re.findall(r'<a id="(\w+)"></a>', out) == re.findall(r"^### (\w+) ", out, re.MULTILINE) == codes
    assert set(re.findall(r"^(#+) ", out, re.MULTILINE)) == {"#", "##", "###", "####"}


def test_all_rules_as_json(run: Run) -> None:
    rules = json.loads(run("rule", "--all", "--output-format", "json").out)["rules"]
    assert all(rule["documentation"].startswith(rule["summary"][:20]) for rule in rules) and len(rules) > 70
    [one] = json.loads(run("rule", "GL401", "--output-format", "json").out)["rules"]
    assert one in rules


@each("arguments", [["rule"], ["rule", "GL401", "--all"]])
def test_one_rule_or_all(run: Run, arguments: list[str]) -> None:
    assert (
        run(*arguments).err
        == "Usage: gradlint rule [OPTIONS] [CODE]\nerror: name one rule by its code or name, or give --all\n"
    )


@each("base, address", [
    ("https://a.org/{code}.html", "https://a.org/GL401.html"), ("https://a.org/#", "https://a.org/#GL401"),
])  # fmt: skip
def test_the_address_of_a_rule(base: str, address: str) -> None:
    assert address_of("GL401", base) == address


def test_titles_alone_become_links() -> None:
    title, other = "\x1b[1mGL401 x\x1b[0m  error\n", "  \x1b[1mGL401 x\x1b[0m GL401\n\x1b[1mGL9 y\x1b[0m\n"
    made = with_links(title + other, ["GL401"], "https://a.org/")
    assert made == title.replace("GL401", "\x1b]8;;https://a.org/GL401\x1b\\GL401\x1b]8;;\x1b\\") + other


@each("url, problem", [("ftp://x", True), ("https://x\x1b]8", True), ("https://x y", False)])
def test_an_address_is_one(run: Run, folder: Path, url: str, problem: bool) -> None:
    write(folder / "gradlint.toml", f"rule-url = {json.dumps(url)}\n")
    made = run("show-settings")
    assert (made.code == 2, "rule-url must be an address that begins with https://" in made.err) == (problem, problem)


def test_no_link_where_nobody_follows_it(run: Run, folder: Path) -> None:
    write(folder / "gradlint.toml", 'rule-url = "https://a.org/"\n')
    write(folder / "m.py", FROZEN_WRONG)
    assert "a.org" not in run("check", "m.py", "--color", "always").out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="there are no pseudo-terminals")
def test_a_terminal_gets_links(folder: Path) -> None:
    import pty
    import sys

    write(folder / "gradlint.toml", 'rule-url = "https://a.org/"\n')
    write(folder / "m.py", FROZEN_WRONG)
    made = bytearray()

    command = [sys.executable, "-m", "gradlint", "check", "m.py", "--color", "always"]
    pid, master = pty.fork()
    if pid == 0:
        os.execv(command[0], command)
    try:
        while data := os.read(master, 4096):
            made += data
    except OSError:  # the end, on Linux
        pass
    os.waitpid(pid, 0)
    assert b"\x1b]8;;https://a.org/GL102\x1b\\GL102\x1b]8;;\x1b\\" in made


def test_a_safe_fix_is_shown_as_a_diff(run: Run, folder: Path) -> None:
    write(folder / "m.py", FROZEN_WRONG)
    out = run("check", "m.py").out
    assert "\n    - self.body.requires_grad = False\n    + self.body.requires_grad_(False)\n" in out
    assert "    + " not in run("check", "m.py", "--output-format", "markdown").out
