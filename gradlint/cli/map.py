"""One call of ``gradlint map``: where gradient flows in a target or a training script, as a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.check import Checker
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.options import CheckOptions
from gradlint.errors import GradlintError, UsageError
from gradlint.report import concise
from gradlint.report.map import render
from gradlint.system import writing
from gradlint.system.legible import one_line


def draw(options: CheckOptions, output: str, make_checker: Callable[[CheckOptions], Checker]) -> int:
    """Record a target or a script and write its map; return the exit code.

    Raises:
        UsageError: an option or the configuration is wrong, or no map is written in a file of that name.
        GradlintError: the file cannot be written.
        Interrupted: on Ctrl-C.
    """
    suffix = Path(output).suffix.lower()
    if suffix not in render.SUFFIXES:
        raise UsageError(f"-o {one_line(output)}: the suffix decides what is written: {', '.join(render.SUFFIXES)}")
    checker = make_checker(options)
    report = checker.reported(checker.check())
    view = streams.view_of_stdout("never")
    if report.maps:
        text = render.rendered(report.maps[0], report.findings, view, suffix)
        try:
            writing.write(output, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise GradlintError(f"{one_line(output)} cannot be written: {error.strerror or error}") from error
        streams.write_error(f"wrote {one_line(output)}\n")
    streams.write_error(concise.errors(report, view))
    return FAILED if report.errors or not report.maps else CLEAN
