"""``gradlint run`` from its options to its exit code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from gradlint import registry, selection
from gradlint.cli import outcome
from gradlint.cli.exits import Interrupted
from gradlint.cli.session import run_script
from gradlint.findings import Severity
from gradlint.runner.job import Job

__all__ = ["Job", "run"]


def run(
    job: Job,
    wishes: outcome.Wishes,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    extend_select: Sequence[str] = (),
    *,
    tracking: bool = False,
) -> int:
    """Run a script, report, and return the exit code.

    Raises:
        UsageError: a selector fits no rule.
        Interrupted: on Ctrl-C.
    """
    rules = registry.load(job.rules_dirs)
    chosen = selection.select(rules, select, ignore, extend_select)
    job = replace(job, rules=tuple(rule.code for rule in chosen.rules))
    fail_on = Severity[(wishes.fail_on or "warning").upper()]
    try:
        report = run_script(job, tracking=tracking)
    except Interrupted as stop:
        if wishes.output_format == "json":
            outcome.show(stop.report, wishes)
        raise
    report = chosen.apply(report, show_info=wishes.show_info or fail_on is Severity.INFO)
    outcome.show(report, wishes, lambda: rules.entries)
    return outcome.exit_code(report, wishes, fail_on)
