"""Filters between the findings of the rules and the report: selection, configuration, comments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path

from gradlint.config.discover import patterns
from gradlint.config.settings import Settings
from gradlint.findings import Finding, Report, Severity, sorted_findings
from gradlint.rulekit.registry import Entry, Registry
from gradlint.rulekit.rule import Rule
from gradlint.rulekit.selection import Selection, codes_of
from gradlint.triage.baseline import Baseline
from gradlint.triage.suppressions import FileSuppressions, all_of


@dataclass(frozen=True)
class Plan:
    """The settings of one part of a check, and the rules that settings and command line select."""

    settings: Settings
    registry: Registry
    selection: Selection
    is_partial: bool = False
    """True if rules that the configuration or a pack names are not loaded."""

    def codes(self, selector: str) -> frozenset[str]:
        """Return the codes that a selector of the configuration matches.

        Raises:
            UsageError: it means none.
        """
        return codes_of(self.registry, [selector], where=f"{self.settings.path}: ")


Spellings = Mapping[tuple[str, str], tuple[str, ...]]
"""(Target, parameter) → further names of the parameter."""


def configured(finding: Finding, plan: Plan, spellings: Spellings) -> Finding | None:
    """Return a finding as the configuration changes it; None if it removes it."""
    settings = plan.settings
    if finding.code not in plan.selection.codes:
        return None
    if finding.location is not None:
        for pattern, selectors in settings.per_file_ignores.items():
            meant = patterns((pattern,), settings.root).match_below(finding.location.path)
            if meant and any(finding.code in plan.codes(s) for s in selectors):
                return None
    for selector, severity in settings.severity.items():
        if finding.code in plan.codes(selector):
            finding = replace(finding, severity=severity)
    return _without_ignored(finding, plan, spellings)


def _without_ignored(finding: Finding, plan: Plan, spellings: Spellings) -> Finding | None:
    globs = [
        glob for selector, globs in plan.settings.ignore_parameters.items()
        if finding.code in plan.codes(selector) for glob in globs
    ]  # fmt: skip
    if not globs or not finding.parameters:
        return finding
    parameters = tuple(
        p for p in finding.parameters
        if not any(fnmatchcase(n, glob) for n in (p, *spellings.get((finding.target, p), ())) for glob in globs)
    )  # fmt: skip
    if len(parameters) == len(finding.parameters):
        return finding
    if not parameters:
        return None
    gone = len(finding.parameters) - len(parameters)
    message = f"{finding.message} (The configuration ignores {gone} of them: {', '.join(globs)}.)"
    return replace(finding, parameters=parameters, message=message)


@dataclass
class Silenced:
    """Findings after comments were applied."""

    findings: list[Finding]
    count: int = 0


def silence(
    findings: Iterable[Finding],
    commented: Iterable[str],
    unused: Callable[[str, FileSuppressions], Iterable[Finding]],
) -> Silenced:
    """Remove findings that comments suppress, and add one for each comment without effect.

    Args:
        findings: as found.
        commented: files whose comments are to be judged, beside those of the findings.
        unused: the findings about the comments of a file.
    """
    findings = list(findings)
    files = all_of([*(f.location.path for f in findings if f.location is not None), *commented])
    remaining = []
    for finding in findings:
        file = files.get(finding.location.path) if finding.location is not None else None
        if file is None or not file.silences(finding):
            remaining.append(finding)
    count = len(findings) - len(remaining)
    for path, file in files.items():
        remaining += (f for f in unused(path, file) if not file.silences(f))
    return Silenced(sorted_findings(remaining), count)


@dataclass
class Scope:
    """The parts of one file that a check covered, which comments there could suppress."""

    plan: Plan
    source: bool = False
    """True if the source rules read it."""
    ran: list[tuple[int, int]] = field(default_factory=list)
    """Lines of its functions that a recording ran."""
    recorded: set[str] = field(default_factory=set)
    """Codes of the rules that judged that recording."""

    def why_idle(self, code: str, line: int, statement: str | None) -> str | None:
        """Return why a code in a comment certainly suppresses nothing; None if that is not certain."""
        entry = self._entry(code)
        if entry is None:
            is_certain = (self.source or self.ran) and not self.plan.is_partial
            return "no rule has this code or name" if is_certain else None
        if entry.code not in self.plan.selection.codes:
            return None
        if self._ran(line) and entry.code in self.recorded:
            return "no finding in this check"
        if not self.source:
            return None
        if statement is None and line:
            return "it is on no statement"
        if isinstance(entry, type) and issubclass(entry, Rule):
            if not entry.judges_recordings():
                return "no finding here"
            possible = entry.suppressible_on
            return (
                "no finding is possible here"
                if possible and line and not re.search(possible, statement or "")
                else None
            )
        return "the file can be parsed" if entry.code == "GL002" else None

    def _ran(self, line: int) -> bool:
        return any(first <= line <= last for first, last in self.ran)

    def _entry(self, code: str) -> Entry | None:
        entries = self.plan.registry.entries
        return next((e for e in entries if e.code == code.upper() or e.name == code.lower()), None)


def filtered(
    report: Report,
    plan_of: Callable[[Finding], Plan],
    scopes: Mapping[str, Scope],
) -> Report:
    """Return a report without findings that configuration or comments remove.

    Args:
        report: what the rules found.
        plan_of: returns the plan for the part that a finding comes from.
        scopes: file → the parts of it that were checked.
    """
    names = report.spellings
    remaining = [
        new for finding in report.findings if (new := configured(finding, plan_of(finding), names)) is not None
    ]

    def unused(path: str, file: FileSuppressions) -> Iterable[Finding]:
        scope = scopes.get(path)
        if scope is None or "GL001" not in scope.plan.selection.codes:
            return ()
        new = [configured(finding, scope.plan, names) for finding in file.unused(scope.why_idle)]
        return [finding for finding in new if finding is not None]

    silenced = silence(remaining, scopes, unused)
    return replace(report, findings=silenced.findings, silenced=report.silenced + silenced.count)


def shown(report: Report, selections: Sequence[Selection], *, show_info: bool) -> Report:
    """Return a report without the info findings that are not selected, and count them."""
    asked = frozenset[str]().union(*(s.asked_for for s in selections))
    visible = [f for f in report.findings if show_info or f.severity > Severity.INFO or f.code in asked]
    return replace(report, findings=visible, hidden=report.hidden + len(report.findings) - len(visible))


def without_known(report: Report, baseline: Path | None) -> Report:
    """Return a report without the findings that a baseline lists, and count them."""
    if baseline is None:
        return report
    fresh, known, gone = Baseline.read(baseline).new(report.findings)
    return replace(report, findings=fresh, known=report.known + known, gone=gone)


def of_one(report: Report, plan: Plan, *, show_info: bool) -> Report:
    """Return the report on one setup after configuration, comments and baseline."""
    report = shown(filtered(report, lambda finding: plan, {}), [plan.selection], show_info=show_info)
    return without_known(report, plan.settings.baseline_file())
