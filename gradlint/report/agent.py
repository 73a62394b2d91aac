"""The report for coding agents: one short line for each finding, then the summaries."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.findings import Finding, Report, sorted_findings
from gradlint.report.full import closing, names_all
from gradlint.report.summary import sources, summary
from gradlint.report.view import View, cut, shown_place
from gradlint.rulekit.registry import Entry
from gradlint.wording import fold_names

MOST = 240
"""Characters of a line, which are about 60 tokens."""
LISTED = 3
"""Groups of parameters that are named."""


def render(report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return ``place code cause | parameters | fix`` of each finding, and the summaries."""
    lines = [_line(finding, view) for finding in sorted_findings(report.findings)]
    lines += [view.clean(f"error {failure.target}: {failure.message}") for failure in report.errors]
    if not view.quiet:
        lines += [view.clean(f"{target.target}: {summary(target)}") for target in report.targets]
        lines += [view.clean(f"note {note.target}: {note.message}") for note in report.notes if note.target]
        lines += [sources(report.sources)] if report.sources is not None else []
        lines.append(view.clean(closing(report).plain))
    return "".join(f"{line}\n" for line in lines)


def _line(finding: Finding, view: View) -> str:
    place = shown_place(finding.location, view.root) if finding.location is not None else finding.target
    head = f"{place} {finding.code} "
    fix = f" | fix: {_first_sentence(finding.fix.description)}" if finding.fix is not None else ""
    named = "" if names_all(finding.message, finding.parameters) else _groups(finding.parameters)
    room = MOST - len(head) - len(named) - len(fix)
    message = finding.message if len(finding.message) <= room else _first_sentence(finding.message)
    return view.clean(f"{head}{cut(message, max(room, MOST // 4))}{named}{fix}")


def _groups(parameters: Sequence[str]) -> str:
    groups = fold_names(parameters)
    more = f", and {len(groups) - LISTED} more" if len(groups) > LISTED else ""
    return f" | {', '.join(groups[:LISTED])}{more}"


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].removesuffix(".") + "."
