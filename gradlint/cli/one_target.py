"""Targets handed to the engine one by one, so that the fault of one does not stop the others."""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gradlint.cli.exits import Interrupted
from gradlint.cli.streams import progress, stdout_for_the_report, tell
from gradlint.cli.targets import missing_attribute
from gradlint.config.settings import Configuration, Settings
from gradlint.engine.options import options
from gradlint.errors import GradlintError, TargetError
from gradlint.findings import Failure, Report, TargetSummary
from gradlint.gc_pause import frozen_imports
from gradlint.load.target import missing_path, parse_target
from gradlint.rulekit.contract import Declaration
from gradlint.rulekit.selection import Selection

if TYPE_CHECKING:
    from gradlint.lock.snapshot import Snapshot
    from gradlint.report.explanations import Explanation
    from gradlint.runner.job import Job
    from gradlint.runner.parent import Process

T = TypeVar("T")


def check_targets(
    targets: Sequence[str],
    selection: Selection,
    *,
    inputs: Sequence[str] = (),
    contract: Sequence[Declaration] = (),
    strict: bool = False,
    numeric: bool = False,
    settings_of: Callable[[str], Settings] | None = None,
) -> Report:
    """Check each target once, in the order given; what is configured for it counts: `settings_of` says where else than
    in the nearest file.

    Raises:
        Interrupted: on Ctrl-C.
    """
    report = Report()
    unique = list(dict.fromkeys(targets))
    for number, target in enumerate(unique, 1):
        place = f" ({number} of {len(unique)})" if len(unique) > 1 else ""
        problem = missing_attribute(target)
        if problem:
            report.errors.append(Failure(target, problem))
            continue
        try:
            with progress(f"gradlint: checking {target}{place}"), stdout_for_the_report():
                near = settings_of or Configuration().of_target
                work = partial(_check, target, near, selection, inputs, contract, strict, numeric)
                outcome = _guarded(target, work)
        except KeyboardInterrupt:
            report.errors.append(Failure(target, "interrupted"))
            raise Interrupted(report) from None
        if isinstance(outcome, Failure):
            report.errors.append(outcome)
        else:
            report.extend(outcome)
    return report


def explain(target: str, pattern: str, *, inputs: Sequence[str] = ()) -> list[Explanation] | Failure:
    """What is known about the parameters of a target that a glob pattern names.

    Raises:
        Interrupted: on Ctrl-C.
    """
    problem = missing_attribute(target)
    if problem:
        return Failure(target, problem)
    try:
        with progress(f"gradlint: recording {target}"), stdout_for_the_report():
            return _guarded(target, partial(_explain, target, pattern, inputs))
    except KeyboardInterrupt:
        raise Interrupted(Report(errors=[Failure(target, "interrupted")])) from None


def snapshots(targets: Mapping[str, str], *, inputs: Sequence[str] = ()) -> tuple[dict[str, Snapshot], Report]:
    """What trains in each target, by its key in the lock; the report holds what was seen and what went wrong.

    Args:
        targets: key in the lock → target.

    Raises:
        Interrupted: on Ctrl-C.
    """
    found: dict[str, Snapshot] = {}
    report = Report()
    for number, (key, target) in enumerate(targets.items(), 1):
        place = f" ({number} of {len(targets)})" if len(targets) > 1 else ""
        problem = missing_attribute(target)
        if problem:
            report.errors.append(Failure(target, problem))
            continue
        try:
            with progress(f"gradlint: recording {target}{place}"), stdout_for_the_report():
                outcome = _guarded(target, partial(_snapshot, key, target, inputs))
        except KeyboardInterrupt:
            report.errors.append(Failure(target, "interrupted"))
            raise Interrupted(report) from None
        if isinstance(outcome, Failure):
            report.errors.append(outcome)
        else:
            found[key] = outcome[0]
            report.targets.append(outcome[1])
    return found, report


def run_script(job: Job, process: Process) -> Report:
    """Run a script in the process that was begun for it, and judge its first steps.

    Raises:
        Interrupted: on Ctrl-C; the script has been ended.
    """
    if not job.module and not Path(job.script).is_file():
        what = "is a folder" if Path(job.script).is_dir() else "does not exist"
        return Report(errors=[Failure(job.target, f"{job.script} {what}: name the file of a training script")])
    tell(
        f"gradlint: running {job.target} until its optimizers have stepped {job.steps} times; "
        "what it writes is really written\n"
    )
    try:
        return process.run(job)
    except KeyboardInterrupt:
        raise Interrupted(Report(errors=[Failure(job.target, "interrupted")])) from None


def _engine(target: str) -> Any:
    """The engine, which needs torch, and that takes a second to import: only once something is checked.

    Raises:
        TargetError: there is no such file.
    """
    path = parse_target(target).path
    if path is not None and not path.exists():
        raise missing_path(path)
    if "gradlint.engine.check" in sys.modules:
        return sys.modules["gradlint.engine.check"]
    with frozen_imports():
        with contextlib.suppress(ImportError):  # the engine says so, where it comes to that
            importlib.import_module("gradlint.recorder.session")
        return importlib.import_module("gradlint.engine.check")


def _check(
    target: str,
    settings_of: Callable[[str], Settings],
    selection: Selection,
    inputs: Sequence[str],
    contract: Sequence[Declaration],
    strict: bool,
    numeric: bool,
) -> Report:
    engine = _engine(target)
    settings = settings_of(target)
    how = options(settings, target, inputs=inputs, contract=contract, strict=strict, numeric=numeric)
    report: Report = engine.check_target(target, selection.rules, how)
    return report


def _snapshot(key: str, target: str, inputs: Sequence[str]) -> tuple[Snapshot, TargetSummary]:
    _engine(target)
    from gradlint.lock.take import snapshot_target

    settings = Configuration().of_target(target)
    return snapshot_target(target, options(settings, target, inputs=inputs), key)


def _explain(target: str, pattern: str, inputs: Sequence[str]) -> list[Explanation]:
    engine = _engine(target)
    why = importlib.import_module("gradlint.explain")
    explanations: list[Explanation] = why.explain(target, pattern, engine.Options(inputs=tuple(inputs)))
    return explanations


def _guarded(target: str, work: Callable[[], T]) -> T | Failure:
    """The result of `work`, or the failure that its exception means."""
    try:
        return work()
    except TargetError as error:
        return Failure(target, str(error), error.traceback)
    except GradlintError as error:
        return Failure(target, str(error))
    except ModuleNotFoundError as error:
        if error.name != "torch":
            return _own_fault(target, error)
        return Failure(target, "torch is not installed here; install it, for example with: pip install torch")
    except SystemExit as error:
        return Failure(target, f"the code under check called sys.exit({error.code!r})")
    except Exception as error:
        return _own_fault(target, error)


def _own_fault(target: str, error: Exception) -> Failure:
    message = f"gradlint itself failed on this target ({type(error).__name__}: {error}); please report it"
    return Failure(target, message, traceback.format_exc())
