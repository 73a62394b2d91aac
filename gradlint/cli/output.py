"""Output of a check: the report in its format, changed files, the exit code."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.check import Checker, CheckResult
from gradlint.cli.exits import CLEAN, FAILED, FOUND, Interrupted
from gradlint.cli.options import CheckOptions, OutputOptions
from gradlint.config.settings import Settings
from gradlint.errors import UsageError
from gradlint.findings import Note, Report, Severity
from gradlint.report import DOCUMENTS, FORMATS, WHOLE, WITHOUT_NOTES, concise, render, statistics
from gradlint.report.links import with_links
from gradlint.report.view import View, shown_path
from gradlint.rulekit.registry import Entry
from gradlint.source import overlay
from gradlint.source.text import NOTEBOOK
from gradlint.system import writing
from gradlint.system.legible import sanitized
from gradlint.triage.baseline import Baseline
from gradlint.wording import nearest, plural


def run(options: CheckOptions, output: OutputOptions, make_checker: Callable[[CheckOptions], Checker] = Checker) -> int:
    """Check, report, and return the exit code.

    Args:
        options: decide what is checked.
        output: decide what becomes of the findings.
        make_checker: returns the checker for the options.

    Raises:
        UsageError: an option or the configuration is wrong.
        Interrupted: on Ctrl-C.
    """
    _refuse_nonsense(options, output)
    try:
        return _run(options, output, make_checker)
    finally:
        overlay.forget()


def _refuse_nonsense(options: CheckOptions, output: OutputOptions) -> None:
    if options.stdin_filename and "-" not in options.targets:
        raise UsageError("--stdin-filename names the source on stdin: give - as a target")
    if output.add_ignores and (output.changes_files or output.write_baseline):
        raise UsageError("--add-ignores cannot be combined with fixes or --write-baseline")
    if output.add_ignores and "-" in options.targets:
        raise UsageError("--add-ignores cannot change stdin: name files")
    if output.write_baseline and output.changes_files:
        raise UsageError("--write-baseline cannot be combined with fixes: fix first, then write it")
    if (
        output.output_file
        and output.output_file.endswith((".py", ".pyi", ".ipynb"))
        and Path(output.output_file).exists()
    ):
        raise UsageError(f"--output-file {output.output_file}: this is source code, which no report replaces")
    for text in output.also:
        _also(text)
    if output.statistics and output.output_format and output.output_format not in statistics.FORMATS:
        formats = ", ".join(statistics.FORMATS)
        raise UsageError(f"--statistics has no {output.output_format} format: use one of {formats}")


def _run(options: CheckOptions, output: OutputOptions, make_checker: Callable[[CheckOptions], Checker]) -> int:
    if output.output_file == "-":
        output = output._replace(output_file=None)
    if output.write_baseline:
        options = options._replace(baseline=None)
    checker = make_checker(options)
    settings = checker.settings
    fail_on = Severity[output.fail_on.upper()] if output.fail_on else settings.fail_on
    show_info = output.show_info or settings.show_info or fail_on is Severity.INFO
    output = output._replace(
        output_format=output.output_format or _configured_format(settings), rule_url=settings.rule_url
    )
    if "html" in _formats(output):
        checker.draw_maps()
    try:
        result = checker.check()
    except Interrupted as stop:
        if output.output_format in WHOLE:
            show(stop.report, output, checker.entries())
            stop.is_shown = True
        raise
    if output.write_baseline:
        checker.settings = replace(settings, baseline="")
        return _write_baseline(checker.reported(result, show_info=show_info), Path(output.write_baseline))
    report = checker.reported(result, show_info=show_info)
    report.notes += _hints(checker, result)
    if output.add_ignores:
        return _add_ignores(result, report)
    if output.changes_files:
        return _fix(checker, result, report, output, fail_on, show_info)
    show(report, output, checker.entries())
    return code(report, output, fail_on)


def code(report: Report, output: OutputOptions, fail_on: Severity) -> int:
    """Return the exit code for a report."""
    if report.errors:
        return FAILED
    worst = report.worst()
    return FOUND if worst is not None and worst >= fail_on and not output.exit_zero else CLEAN


def _fix(
    checker: Checker, result: CheckResult, report: Report, output: OutputOptions, fail_on: Severity, show_info: bool
) -> int:
    from gradlint.cli.fix import fix

    unsafe = output.unsafe_fixes or checker.settings.unsafe_fixes
    writes = not output.diff
    remaining, changes = fix(checker, result, report, unsafe=unsafe, show_info=show_info, write=writes)
    view = streams.view_of_stdout(output.color)
    if output.diff:
        streams.write(changes.diff(), kept="\t\f\u200c\u200d")  # which honest sources contain
        _write_errors(remaining, changes.notes, view)
        if changes.count:
            streams.write_error(f"would fix {plural(changes.count, 'finding')}\n")
        return FAILED if remaining.errors else FOUND if changes.after and not output.exit_zero else CLEAN
    if result.stdin:
        text = changes.after.get(result.stdin)
        data = overlay.read(result.stdin) if text is None else changes.before[result.stdin].encoded(text)
        streams.write_bytes(data)
    if output.fix_only:
        _write_errors(remaining, changes.notes, view)
        if changes.count and not output.quiet:
            streams.write_error(f"fixed {plural(changes.count, 'finding')}\n")
        return FAILED if remaining.errors else CLEAN
    remaining.notes += [note for note in changes.notes if note not in remaining.notes]
    show(remaining, output, checker.entries(), to_stderr=bool(result.stdin))
    return code(remaining, output, fail_on)


def _write_errors(report: Report, notes: list[Note], view: View) -> None:
    streams.write_error(concise.errors(report, view))
    streams.write_error("".join(f"{view.clean(note.message)}\n" for note in notes))


def _add_ignores(result: CheckResult, report: Report) -> int:
    from gradlint.cli.fix import add_ignores

    remaining, changes = add_ignores(result, report)
    view = streams.view_of_stdout()
    streams.write_error(
        f"added comments for {plural(changes.count, 'finding')} in {plural(len(changes.after), 'file')}\n"
    )
    _write_errors(remaining, changes.notes, view)
    if remaining.findings:
        streams.write_error("no comment can suppress these:\n" + concise.render(remaining, view))
    return FAILED if remaining.errors else FOUND if remaining.findings else CLEAN


def _configured_format(settings: Settings) -> str:
    """Return the output format of a configuration file.

    Raises:
        UsageError: there is no such format.
    """
    name = settings.output_format
    if name not in FORMATS:
        near = nearest(name, FORMATS)
        hint = f"; did you mean {near}?" if near else ""
        raise UsageError(f"{settings.path}: output-format must be one of {', '.join(FORMATS)}, not {name!r}{hint}")
    return name


def _write_baseline(report: Report, path: Path) -> int:
    view = streams.view_of_stdout()
    streams.write_error(concise.errors(report, view))
    if report.errors:
        streams.write_error("the baseline is not written: findings of targets with errors would be missing\n")
        return FAILED
    Baseline.made_of(report.findings, path).write()
    streams.write_error(
        f"listed {plural(len(report.findings), 'finding')} in {view.clean(shown_path(str(path), view.root))}\n"
    )
    return CLEAN


def _hints(checker: Checker, result: CheckResult) -> list[Note]:
    """Return a note on how to check models, if files were read and nothing was run."""
    if result.report.sources is None or checker.targets or result.stdin:
        return []
    if not result.report.sources.files:
        return [Note("", "no Python files or notebooks were found in the given paths")]
    from gradlint.cli.targets import builders

    single = result.sources[0].path if len(result.sources) == 1 else ""
    text = "only the source rules ran; they run none of your code"
    if single and single.endswith(".py"):
        shown = shown_path(single, Path.cwd())
        names = builders(Path(single))
        ways = [f"gradlint check {shown}:{names[0] if names else 'build'}", f"gradlint run {shown}"]
        if not names:
            ways.append(f"gradlint init {shown} to write build()")
        text += f"; to check which parameters train: {' or '.join(ways)}"
    elif single and single.endswith(NOTEBOOK):
        shown = shown_path(single, Path.cwd())
        text += f"; to check which parameters train: gradlint run {shown} or gradlint check {shown}:build"
    return [Note("", text)]


def _also(text: str) -> tuple[str, str]:
    """Return (format, file) of a further report.

    Raises:
        UsageError: it names no format, or no file that a report may replace.
    """
    name, colon, file = text.partition(":")
    if name not in FORMATS or not colon or not file:
        near = nearest(name, FORMATS)
        hint = f"; did you mean {near}?" if near and near != name else f"; formats are {', '.join(FORMATS)}"
        raise UsageError(f"--also {text}: write it as FORMAT:FILE, as in sarif:out.sarif{hint}")
    if file.endswith((".py", ".pyi", ".ipynb")) and Path(file).exists():
        raise UsageError(f"--also {text}: this is source code, which no report replaces")
    return name, file


def _formats(output: OutputOptions) -> set[str | None]:
    """Return the formats of all reports that a call writes."""
    return {output.output_format, *(_also(text)[0] for text in output.also)}


def _service_hint(report: Report, output: OutputOptions) -> str:
    """Return how to show the findings in the service that runs this, if that was not asked for."""
    used = _formats(output)
    if not report.findings or output.quiet or output.output_file:
        return ""
    if os.environ.get("GITHUB_ACTIONS") == "true" and not used & {"github", "sarif"}:
        return "note: on GitHub, --output-format github shows the findings beside the lines of a pull request\n"
    if os.environ.get("GITLAB_CI") == "true" and "gitlab" not in used:
        return "note: on GitLab, --also gitlab:FILE writes the report that a merge request shows (codequality)\n"
    return ""


def show(report: Report, output: OutputOptions, rules: Sequence[Entry] = (), *, to_stderr: bool = False) -> None:
    """Write a report to stdout, to stderr or to a file.

    Args:
        report: what was found.
        output: the format and where it goes.
        rules: the rules that ran, for formats that describe them.
        to_stderr: whether stdout is taken by something else.

    Raises:
        UsageError: the file that was asked for cannot be written.
    """
    view = replace(streams.view_of_stdout(output.color, verbose=output.verbose), quiet=output.quiet)
    if output.output_file:
        view = replace(view, color=output.color == "always", terminal=False, encoding="utf-8")
    if output.statistics:
        text = statistics.as_json(report) if output.output_format == "json" else statistics.render(report, view)
    else:
        text = render(output.output_format or "full", report, view, rules)
    if output.output_file:
        try:
            writing.write(output.output_file, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(
                f"--output-file {output.output_file}: cannot be written: {error.strerror or error}"
            ) from error
    elif to_stderr:
        streams.write_error(text, color=view.color)
    elif output.output_format in DOCUMENTS:
        streams.write_document(text)
    elif output.rule_url and view.terminal and view.color:
        codes = [finding.code for finding in report.findings]
        streams.write_document(with_links(sanitized(text, color=True), codes, output.rule_url))
    else:
        streams.write(text, color=view.color)
    if output.output_format == "concise" and not output.quiet:
        streams.write_error(concise.aside(report, view))
    if output.output_format in WITHOUT_NOTES and not output.quiet:
        streams.write_error(concise.notes(report, view))
    if output.output_format != "full" or output.statistics or output.quiet:
        streams.write_error(concise.errors(report, view))
    _show_also(report, output, rules)
    streams.write_error(_service_hint(report, output))


def _show_also(report: Report, output: OutputOptions, rules: Sequence[Entry]) -> None:
    for text in output.also:
        name, file = _also(text)
        view = replace(streams.view_of_stdout("never", verbose=output.verbose), terminal=False, encoding="utf-8")
        try:
            writing.write(file, render(name, report, view, rules).encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(f"--also {text}: cannot be written: {error.strerror or error}") from error
