"""One file judged by the source rules: from bytes to findings."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence

from gradlint.findings import Finding, Severity, sorted_findings
from gradlint.location import Location
from gradlint.rulekit.rule import Rule
from gradlint.rulekit.source_context import SourceContext
from gradlint.source.file import SourceModule
from gradlint.source.files import source_text
from gradlint.source.text import BrokenNotebook, Unreadable

SYNTAX_ERROR = "GL002"


@functools.cache
def _alternatives(prefilter: tuple[str, ...]) -> tuple[tuple[bytes, ...], ...]:
    return tuple(tuple(text.encode() for text in entry.split("|")) for entry in prefilter)


def may_apply(data: bytes, rules: Sequence[type[Rule]]) -> list[type[Rule]]:
    """Return the rules whose prefilter a file's bytes pass."""
    return [
        rule for rule in rules if all(any(t in data for t in texts) for texts in _alternatives(rule.source_prefilter))
    ]


def judge(context: SourceContext, rules: Sequence[type[Rule]]) -> list[Finding]:
    """Return what the rules find in a parsed file."""
    return sorted_findings(finding for rule in rules for finding in rule().check_source(context))


def judge_bytes(path: str, data: bytes, rules: Sequence[type[Rule]], target: str = "") -> list[Finding]:
    """Return what the rules find in a file's bytes; a finding of GL002 if they cannot be parsed."""
    try:
        context = SourceContext(SourceModule(source_text(path, data)), target)
    except Unreadable as error:
        place = Location(path, error.line, error.column)
        message = f"Python {sys.version_info[0]}.{sys.version_info[1]} cannot parse this: {error}."
        if isinstance(error, BrokenNotebook):
            message = f"This notebook cannot be read: {error}."
        return [Finding(target or path, SYNTAX_ERROR, "syntax-error", Severity.ERROR, message, place)]
    return judge(context, may_apply(data, rules))
