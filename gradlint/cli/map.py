"""One call of ``gradlint map``: where gradient flows in a target or a training script, as a file."""

from __future__ import annotations

from collections.abc import Callable

from gradlint.cli import streams
from gradlint.cli.check import Checker
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.options import CheckOptions
from gradlint.report import concise
from gradlint.report.map import render
from gradlint.system.legible import one_line


def draw(options: CheckOptions, output: str, make_checker: Callable[[CheckOptions], Checker]) -> int:
    """Record a target or a script and write its map; return the exit code.

    Raises:
        UsageError: an option or the configuration is wrong, or no map is written in a file of that name.
        GradlintError: the file cannot be written.
        Interrupted: on Ctrl-C.
    """
    render.suffix_of(output)
    checker = make_checker(options)
    report = checker.reported(checker.check())
    view = streams.view_of_stdout("never")
    if report.maps:
        render.save(report.maps, report.findings, view, output)
        streams.write_error(f"wrote {one_line(output)}\n")
    streams.write_error(concise.errors(report, view))
    return FAILED if report.errors or not report.maps else CLEAN
