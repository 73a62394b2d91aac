"""One call of ``gradlint summary``: the modules of a target or of a training script."""

from __future__ import annotations

from collections.abc import Callable

from gradlint.cli import streams
from gradlint.cli.check import Checker
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.options import CheckOptions
from gradlint.errors import UsageError
from gradlint.report import concise
from gradlint.report.overview import Wanted, document, render, unmatched
from gradlint.system.legible import json_text


def summary(
    options: CheckOptions,
    wanted: Wanted,
    output_format: str,
    color: str,
    make_checker: Callable[[CheckOptions], Checker],
) -> int:
    """Record a target or a script and write the summary of its modules; return the exit code.

    Raises:
        UsageError: an option or the configuration is wrong, or a glob matches no module.
        Interrupted: on Ctrl-C.
    """
    checker = make_checker(options)
    report = checker.reported(checker.check())
    for overview in report.overviews:
        problem = unmatched(overview, wanted)
        if problem:
            raise UsageError(f"--expand: {problem}")
    view = streams.view_of_stdout(color)
    if output_format == "json":
        streams.write_document(json_text(document(report, view.root)))
    else:
        streams.write(render(report, view, wanted), color=view.color)
    streams.write_error(concise.errors(report, view))
    return FAILED if report.errors else CLEAN
