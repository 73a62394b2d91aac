"""The report as Markdown for a comment on a pull request.

Everything from outside is written in entities, which no Markdown takes for markup, or stands in a fence that is longer
than any in it. A comment has a limit: what exceeds it is counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gradlint.findings import Failure, Finding, Report, Severity, sorted_findings
from gradlint.flow.cost import saved_in_words
from gradlint.location import Location
from gradlint.report.excerpt import excerpt
from gradlint.report.full import closing
from gradlint.report.summary import summary
from gradlint.report.view import View, shown_place
from gradlint.rulekit.registry import Entry
from gradlint.system.legible import without_commands
from gradlint.wording import fold_names, plural

LIMIT = 60_000
"""Characters of a comment; GitHub takes 65,536."""
LONGEST = 300
"""Characters of a text from outside before its middle is left out."""
WIDTH = 100
"""Columns of source lines; longer ones are cut around what is blamed."""
NAMES = 20
"""Names of parameters listed before the rest is counted."""

_MARKUP = re.compile(r"[\\`*_\[\]<>#!|~&@$]|(?<!\S):|:(?=//|:)|(?<=www)\.")
_SIGNS = {Severity.ERROR: "❌ error", Severity.WARNING: "⚠️ warning", Severity.INFO: "ℹ️ info"}


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return a headline, a table of the findings, and each one to open."""
    view = replace(view, width=WIDTH, color=False, terminal=True, encoding="utf-8")
    findings = sorted_findings(report.findings)
    parts = [f"### gradlint: {_text(closing(report).plain, view)}\n"]
    room = LIMIT - 2000
    if findings:
        rows = ["", "| | rule | where | what |", "|---|---|---|---|"]
        rows += _fitting((_row(finding, view) for finding in findings), room // 3)
        parts += [*rows, *_uncounted(len(findings) - len(rows) + 3)]
    room -= sum(len(part) + 1 for part in parts)
    failures = list(_fitting((_failure(failure, view) for failure in report.errors), room // 3))
    parts += [*failures, *_uncounted(len(report.errors) - len(failures))]
    room -= sum(map(len, failures))
    details = list(_fitting((_details(finding, view) for finding in findings), max(room - 2000, 0)))
    parts += [*details, *_uncounted(len(findings) - len(details))]
    if not view.quiet:
        targets = [f"\n<sub>{_code(t.target, view)}: {_text(summary(t), view)}</sub>" for t in report.targets]
        parts += _fitting(targets, 2000)
    return "".join(f"{part}\n" for part in parts)


def _fitting(parts: Sequence[str] | Iterator[str], room: int) -> Iterator[str]:
    """Yield parts as long as all of them together fit."""
    for part in parts:
        room -= len(part) + 1
        if room < 0:
            return
        yield part


def _uncounted(number: int) -> list[str]:
    return [f"\n… and {number} more, which the report in another format shows"] if number > 0 else []


def _row(finding: Finding, view: View) -> str:
    place = _code(_place(finding.location, view) if finding.location else finding.target, view)
    rule = f"{_code(finding.code, view)} {_text(finding.name, view)}"
    return f"| {_SIGNS[finding.severity]} | {rule} | {place} | {_text(finding.message, view)} |"


def _details(finding: Finding, view: View) -> str:
    place = _place(finding.location, view) if finding.location else finding.target
    parts = [f"\n<details><summary>{_code(finding.code, view)} {_code(place, view)}</summary>\n"]
    if finding.location:
        parts += _source(finding.location, view)
    parts.append(_text(finding.message, view) + "\n")
    if finding.fix:
        parts.append(f"**Fix:** {_text(finding.fix.description, view)}\n")
    if finding.saving:
        parts.append(f"**Measured:** freezing them saves {saved_in_words(finding.saving)}.\n")
    for related in finding.related:
        parts.append(f"{_text(related.message, view)}: {_code(_place(related.location, view), view)}\n")
    labels = fold_names(finding.parameters)
    if labels:
        more = f" and {len(labels) - NAMES} more" if len(labels) > NAMES else ""
        names = ", ".join(_code(label, view) for label in labels[:NAMES])
        parts.append(f"{plural(len(finding.parameters), 'parameter')}: {names}{more}\n")
    return "\n".join([*parts, "</details>"])


def _failure(failure: Failure, view: View) -> str:
    lines = view.lines(failure.traceback.rstrip("\n"))[-40:]
    head = f"\n<details><summary>❌ {_code(failure.target, view)}: {_text(failure.message, view)}</summary>\n"
    return "\n".join([head, *(_fenced(lines) if failure.traceback.strip() else []), "</details>"])


def _source(place: Location, view: View) -> list[str]:
    """Return the source lines of a place in a fence, with what is blamed underlined."""
    lines = []
    for row in excerpt(place, view, view.width):
        lines.append(f"{row.gutter} │ {row.text}")
        if row.marks.strip():
            lines.append(f"{' ' * len(row.gutter)} │ {row.marks}")
    return _fenced(lines, "python") if lines else []


def _fenced(lines: Sequence[str], language: str = "") -> list[str]:
    """Return lines in a fence that none of them closes."""
    lines = [_cut(line) for line in lines]
    ticks = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    return [fence + language, without_commands("\n".join(lines)), fence + "\n"]


def _code(text: str, view: View) -> str:
    return f"<code>{_text(text, view)}</code>"


def _text(text: str, view: View) -> str:
    """Return one line of text from anywhere, in which nothing is markup."""
    return _MARKUP.sub(_entity, _cut(view.clean(text)))


def _entity(match: re.Match[str]) -> str:
    """Return a character as an entity.

    GitHub links @name and #12 in text even so: an empty comment parts them.
    """
    return f"&#{ord(match[0])};" + ("<!-- -->" if match[0] in "@#" else "")


def _cut(text: str) -> str:
    """Return a text without its middle if it is long."""
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


def _place(place: Location, view: View) -> str:
    return shown_place(place, view.root)
