"""The examples in the rules' documentation are true: the bad one gives its finding and no other, the other none."""

from __future__ import annotations

import re
import textwrap

import pytest
import table

from gradlint import Severity
from gradlint.rulekit import registry

HEADINGS = ("What it does", "Why it is bad", "Example", "Use instead", "Known limits", "References")
RULES = {rule.code: rule for rule in registry.load(packs=False).rules}


def sections(code: str) -> dict[str, str]:
    """The text under each heading of a rule's docstring."""
    text = textwrap.dedent(f"    {RULES[code].__doc__}")
    parts = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def report(code: str, heading: str, folder):
    """gradlint's report, with all rules on, on the example under a heading."""
    blocks = re.findall(r"```python\n(.*?)```", sections(code)[heading], flags=re.DOTALL)
    assert len(blocks) == 1, f"{code} needs one example under {heading!r}"
    path = folder / "example.py"
    path.write_text(blocks[0], encoding="utf-8")
    found = table.report(f"{path}:build")
    assert not found.errors, found.errors
    return found


@pytest.mark.parametrize("code", RULES)
def test_headings(code):
    assert tuple(sections(code)) == HEADINGS
    assert all(text.strip() for text in sections(code).values())


@pytest.mark.parametrize("code", RULES)
def test_example_gives_exactly_this_finding(code, tmp_path):
    found = report(code, "Example", tmp_path)
    codes = [f.code for f in found.findings if f.severity > Severity.INFO or f.code == code]
    assert codes == [code], table.names_of(code, found)


@pytest.mark.parametrize("code", RULES)
def test_replacement_gives_none(code, tmp_path):
    found = report(code, "Use instead", tmp_path)
    assert not [f for f in found.findings if f.severity > Severity.INFO or f.code == code], table.names_of(code, found)
