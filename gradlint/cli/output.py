"""From what a check found to what the user gets: the report in its format, changed files, the exit code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.check import Checker, Found, Request
from gradlint.cli.exits import CLEAN, FAILED, FOUND, Interrupted
from gradlint.errors import UsageError
from gradlint.findings import Note, Report, Severity
from gradlint.report.view import View, shown_path
from gradlint.rulekit.registry import Entry
from gradlint.source import overlay
from gradlint.triage.baseline import Baseline
from gradlint.triage.fixes import write_atomically
from gradlint.wording import plural


@dataclass(frozen=True)
class Wishes:
    """The options of one call that decide what becomes of its findings."""

    show_info: bool = False
    fail_on: str | None = None
    exit_zero: bool = False
    output_format: str | None = None
    output_file: str | None = None
    statistics: bool = False
    quiet: bool = False
    fix: bool = False
    unsafe_fixes: bool = False
    fix_only: bool = False
    diff: bool = False
    add_ignores: bool = False
    write_baseline: str | None = None
    verbose: bool = False
    color: str = "auto"

    @property
    def changes_files(self) -> bool:
        return self.fix or self.fix_only or self.diff


def run(
    request: Request,
    wishes: Wishes,
    commands: frozenset[str] = frozenset(),
    make: Callable[[Request], Checker] = Checker,
) -> int:
    """Check, report, and return the exit code.

    Args:
        request: what to check.
        wishes: what to do with it.
        commands: the commands that there are, for what is suggested.
        make: gives what does as the request asks.

    Raises:
        UsageError: an option or the configuration is wrong.
        Interrupted: on Ctrl-C.
    """
    _refuse_nonsense(request, wishes)
    try:
        return _run(request, wishes, commands, make)
    finally:
        overlay.forget()


def _refuse_nonsense(request: Request, wishes: Wishes) -> None:
    if request.stdin_filename and "-" not in request.targets:
        raise UsageError("--stdin-filename names what - reads: give - as a target")
    if wishes.add_ignores and (wishes.changes_files or wishes.write_baseline):
        raise UsageError("--add-ignores goes with neither a fix nor --write-baseline")
    if wishes.add_ignores and "-" in request.targets:
        raise UsageError("--add-ignores changes files; stdin is none")
    if wishes.write_baseline and wishes.changes_files:
        raise UsageError("--write-baseline goes with no fix: fix first, then list what is left")
    if wishes.statistics and wishes.output_format in ("sarif", "github"):
        raise UsageError(f"--statistics has no {wishes.output_format} format: use full, concise or json")


def _run(request: Request, wishes: Wishes, commands: frozenset[str], make: Callable[[Request], Checker]) -> int:
    if wishes.write_baseline:
        request = replace(request, baseline=None)
    checker = make(request)
    settings = checker.settings
    fail_on = Severity[wishes.fail_on.upper()] if wishes.fail_on else settings.fail_on
    show_info = wishes.show_info or settings.show_info or fail_on is Severity.INFO
    wishes = replace(wishes, output_format=wishes.output_format or settings.output_format)
    try:
        found = checker.check()
    except Interrupted as stop:
        if wishes.output_format == "json":
            show(stop.report, wishes, checker.entries)
        raise
    report = (
        _unlisted(checker, found, show_info) if wishes.write_baseline else checker.finished(found, show_info=show_info)
    )
    if wishes.write_baseline:
        return _write_baseline(report, Path(wishes.write_baseline))
    report.notes += _hints(checker, found, commands)
    if wishes.add_ignores:
        return _add_ignores(report)
    if wishes.changes_files:
        return _fix(checker, found, report, wishes, fail_on, show_info)
    show(report, wishes, checker.entries)
    return code(report, wishes, fail_on)


def code(report: Report, wishes: Wishes, fail_on: Severity) -> int:
    """The exit code for a report."""
    if report.errors:
        return FAILED
    worst = report.worst()
    return FOUND if worst is not None and worst >= fail_on and not wishes.exit_zero else CLEAN


def _fix(checker: Checker, found: Found, report: Report, wishes: Wishes, fail_on: Severity, show_info: bool) -> int:
    from gradlint.cli import fix as fixing

    unsafe = wishes.unsafe_fixes or checker.settings.unsafe_fixes
    left, changes = fixing.fix(checker, found, report, unsafe=unsafe, show_info=show_info)
    view = streams.view_of_stdout(wishes.color)
    if wishes.diff:
        streams.write(changes.diff())
        _tell_trouble(left, changes.notes, view)
        if changes.count:
            streams.tell(f"would fix {plural(changes.count, 'finding')}\n")
        return FAILED if left.errors else FOUND if changes.after and not wishes.exit_zero else CLEAN
    changes.write()
    if found.stdin:
        text = changes.after.get(found.stdin)
        data = overlay.read(found.stdin) if text is None else changes.before[found.stdin].encoded(text)
        streams.write_bytes(data)
    if wishes.fix_only:
        _tell_trouble(left, changes.notes, view)
        if changes.count and not wishes.quiet:
            streams.tell(f"fixed {plural(changes.count, 'finding')}\n")
        return FAILED if left.errors else CLEAN
    left.notes += [note for note in changes.notes if note not in left.notes]
    show(left, wishes, checker.entries, to_stderr=bool(found.stdin))
    return code(left, wishes, fail_on)


def _tell_trouble(report: Report, notes: list[Note], view: View) -> None:
    from gradlint.report import concise

    streams.tell(concise.errors(report, view))
    streams.tell("".join(f"{view.clean(note.message)}\n" for note in notes))


def _add_ignores(report: Report) -> int:
    from gradlint.cli import fix as fixing
    from gradlint.report import concise

    left, changes = fixing.add_ignores(report)
    changes.write()
    view = streams.view_of_stdout()
    streams.tell(f"added comments for {plural(changes.count, 'finding')} in {plural(len(changes.after), 'file')}\n")
    _tell_trouble(left, changes.notes, view)
    if left.findings:
        streams.tell("no comment can silence these:\n" + concise.render(left, view))
    return FAILED if report.errors or changes.notes else FOUND if left.findings else CLEAN


def _unlisted(checker: Checker, found: Found, show_info: bool) -> Report:
    """The report without a baseline: what a new one is made of."""
    checker.settings = replace(checker.settings, baseline="")
    return checker.finished(found, show_info=show_info)


def _write_baseline(report: Report, path: Path) -> int:
    from gradlint.report import concise

    view = streams.view_of_stdout()
    streams.tell(concise.errors(report, view))
    if report.errors:
        streams.tell("the baseline is not written: what could not be checked would be missing from it\n")
        return FAILED
    Baseline.made_of(report.findings, path).write()
    streams.tell(f"listed {plural(len(report.findings), 'finding')} in {shown_path(str(path), Path.cwd())}\n")
    return CLEAN


def _hints(checker: Checker, found: Found, commands: frozenset[str]) -> list[Note]:
    """What a user should know who had files read and nothing run."""
    if found.report.sources is None or checker.targets or found.stdin:
        return []
    from gradlint.cli.targets import builders

    single = found.sources[0].path if len(found.sources) == 1 else ""
    text = "only the source rules ran, which run nothing of your code"
    if single and single.endswith(".py"):
        shown = shown_path(single, Path.cwd())
        names = builders(Path(single))
        ways = [f"gradlint check {shown}:{names[0] if names else 'build'}"]
        if "run" in commands:
            ways.append(f"gradlint run {shown}")
        if not names:
            ways.append(f"gradlint init {shown} to write build()")
        text += f"; to check what trains: {', or '.join(ways)}"
    return [Note("", text)]


def show(
    report: Report, wishes: Wishes, entries: Callable[[], Sequence[Entry]] = tuple, *, to_stderr: bool = False
) -> None:
    """Write a report as it was asked for.

    Args:
        report: what was found.
        wishes: the format and where it goes.
        entries: the rules that could have spoken, for formats that list them.
        to_stderr: whether stdout is taken by something else.

    Raises:
        UsageError: the file that was asked for cannot be written.
    """
    view = streams.view_of_stdout(wishes.color, verbose=wishes.verbose)
    if wishes.output_file:
        view = replace(view, color=wishes.color == "always", terminal=False, encoding="utf-8")
    text = _rendered(report, wishes, view, entries)
    if wishes.output_file:
        try:
            write_atomically(wishes.output_file, text.encode("utf-8", "backslashreplace"))
        except OSError as error:
            raise UsageError(
                f"--output-file {wishes.output_file}: cannot be written: {error.strerror or error}"
            ) from error
    elif to_stderr:
        streams.tell(text)
    else:
        streams.write(text)
    from gradlint.report import concise

    if wishes.output_format == "concise" and not wishes.quiet:
        streams.tell(concise.aside(report, view))
    if wishes.output_format != "full" or wishes.statistics or wishes.quiet:
        streams.tell(concise.errors(report, view))


def _rendered(report: Report, wishes: Wishes, view: View, entries: Callable[[], Sequence[Entry]]) -> str:
    if wishes.statistics:
        from gradlint.report import statistics

        return statistics.as_json(report) if wishes.output_format == "json" else statistics.render(report, view)
    if wishes.output_format == "full":
        from gradlint.report import full  # imports rich

        return full.findings(report, view) if wishes.quiet else full.render(report, view)
    from gradlint.report import as_json, concise, github, sarif

    if wishes.output_format == "json":
        return as_json.render(report, view.root)
    if wishes.output_format == "sarif":
        return sarif.render(report, view.root, entries())
    return github.render(report, view) if wishes.output_format == "github" else concise.render(report, view)
