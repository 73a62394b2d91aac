"""``gradlint init --from-run``: a build() out of a training script, which is checked before it is written."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from gradlint.cli import streams
from gradlint.cli.check import Checker
from gradlint.cli.exits import CLEAN
from gradlint.cli.options import CheckOptions
from gradlint.cli.run import ScriptChecker
from gradlint.errors import GradlintError
from gradlint.findings import Failure, Report
from gradlint.report.view import shown_path
from gradlint.runner.job import Job
from gradlint.runner.parent import Process
from gradlint.system import writing
from gradlint.system.legible import one_line

Verdict = Counter[tuple[str, tuple[str, ...]]]
"""(Code of a rule, parameters) → number of findings."""


def write_build(job: Job, output: str | None, process: Process) -> int:
    """Run a script, and write a build() that gives the same verdict.

    Raises:
        GradlintError: the script cannot be judged, or no build() gives its verdict; nothing is written then.
        Interrupted: on Ctrl-C.
    """
    script = Path(job.script)
    target = script.with_name(f"{script.stem}_build.py") if output in (None, "-") else Path(str(output))
    if output != "-" and target.exists():
        raise GradlintError(f"{target} is there already; name another file with --output")
    checker = ScriptChecker(CheckOptions(draft=True), job, process)
    report = checker.check().report
    if report.errors:
        raise GradlintError(f"{_said(report.errors[0])}; nothing is written")
    draft = report.draft
    if draft is None or not draft.text:
        raise GradlintError(f"no build() is written: {draft.problem if draft is not None else 'nothing was recorded'}")
    text = f'"""What {_in_docstring(script.name)} trains, as `gradlint run` saw it."""\n\n{draft.text}'
    again = _checked(text, target.name, script.absolute().parent)
    if again.errors:
        problem = _said(again.errors[0])
        raise GradlintError(f"no build() is written: the one made of the script does not run: {problem}")
    recorded = {rule.code for rule in checker.plan(checker.settings).selection.rules if rule.judges_recordings()}
    wanted, made = _verdict(report, recorded), _verdict(again, recorded)
    if wanted != made:
        raise GradlintError(
            "no build() is written: the one made of the script gives another verdict: "
            + "; ".join(_differences(wanted, made))
        )
    if output == "-":
        streams.write(text)
        return CLEAN
    try:
        writing.create(target, text.encode("utf-8", "backslashreplace"))
    except FileExistsError:
        raise GradlintError(f"{target} is there already; name another file with --output") from None
    except OSError as error:
        raise GradlintError(f"{target}: cannot be written: {error.strerror or error}") from error
    shown = one_line(shown_path(str(target.absolute()), Path.cwd()))
    count = sum(wanted.values())
    verdict = f"{count} finding{'s' * (count != 1)}" if count else "no findings"
    streams.write_error(f"wrote {shown} ({verdict}, as run gave): gradlint check {shown}:build\n")
    return CLEAN


def _checked(text: str, name: str, folder: Path) -> Report:
    """Return the report on a build() that lies in no folder of the user's yet."""
    with writing.scratch(name, text.encode("utf-8", "backslashreplace")) as file:
        checker = _ScratchChecker(CheckOptions(targets=(f"{file}:build",)), folder)
        return checker.check().report


class _ScratchChecker(Checker):
    """Checks a file as if it lay in another folder."""

    def __init__(self, options: CheckOptions, folder: Path) -> None:
        self._folder = folder
        super().__init__(options)

    def _check_target(self, target: str) -> Report:
        sys.path.insert(0, str(self._folder))
        return super()._check_target(target)


def _verdict(report: Report, codes: set[str]) -> Verdict:
    return Counter((f.code, tuple(sorted(f.parameters))) for f in report.findings if f.code in codes)


def _differences(wanted: Verdict, made: Verdict) -> list[str]:
    """Return what only one of two verdicts has, in words."""
    parts = []
    for who, more in (("only run finds", wanted - made), ("only the build() shows", made - wanted)):
        parts += [f"{who} {code} ({', '.join(names[:3]) or 'no parameter'})" for code, names in sorted(more)[:3]]
    return parts


def _said(failure: Failure) -> str:
    last = failure.traceback.strip().splitlines()[-4:-1]
    where = next((line.strip() for line in reversed(last) if line.strip().startswith("File ")), "")
    return f"{failure.target}: {failure.message}" + (f" ({where})" if where else "")


def _in_docstring(name: str) -> str:
    return one_line(name).replace("\\", "\\\\").replace('"', '\\"')
