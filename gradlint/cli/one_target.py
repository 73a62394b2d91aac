"""Targets handled one by one, so that the fault of one does not stop the others."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from gradlint.cli import streams
from gradlint.cli.exits import Interrupted
from gradlint.cli.targets import missing_attribute
from gradlint.cli.workers.limits import Limits
from gradlint.cli.workers.supervised_targets import SupervisedTargets
from gradlint.cli.workers.worker import start_time_limit
from gradlint.config.settings import Configuration
from gradlint.engine.options import Options
from gradlint.errors import GradlintError, TargetError, torch_missing
from gradlint.findings import Failure, Report
from gradlint.load.build import InternalError, user_traceback
from gradlint.load.target import missing_path, parse_target
from gradlint.report import concise
from gradlint.report.view import View
from gradlint.system.gc_pause import frozen_imports
from gradlint.system.process_tree import is_own_process

T = TypeVar("T")


class Targets(Generic[T]):
    """The outcomes of targets. In a process that gradlint started, user code runs in processes of its own.

    Args:
        targets: each is handled once.
        work: returns the outcome of a target; user code runs in it, and what it prints goes to stderr.
        doing: what is being done with a target, for the progress line.
        limits: what the user code of one target may take.
    """

    def __init__(
        self,
        targets: Iterable[str],
        work: Callable[[str], T],
        doing: str = "recording",
        limits: Limits | None = None,
    ) -> None:
        self._problems = {target: missing_attribute(target) for target in targets}
        self._doing = doing
        self._done = 0
        runnable = [target for target, problem in self._problems.items() if not problem]
        attempt = partial(_outcome, work=work)
        self._source: SupervisedTargets | _Here = _Here(runnable, attempt)
        if hasattr(os, "fork") and is_own_process():
            self._source = SupervisedTargets(runnable, attempt, _load_for_workers, limits or Limits())

    def __enter__(self) -> Targets[T]:
        self._source.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.__exit__(KeyboardInterrupt if kind is Interrupted else kind, error, trace)

    def of(self, targets: Sequence[str], report: Report) -> Iterator[tuple[str, T]]:
        """Yield the next targets, each with its outcome; add failures to the report.

        Raises:
            Interrupted: on Ctrl-C, with the report.
        """
        count = len(self._problems)
        for target in targets:
            self._done += 1
            problem = self._problems[target]
            if problem:
                report.errors.append(Failure(target, problem))
                continue
            place = f" ({self._done}/{count} targets)" if count > 1 else ""
            try:
                with streams.progress(f"gradlint: {self._doing} {target}{place}"):
                    outcome = self._source.next()
            except KeyboardInterrupt:
                report.errors.append(Failure(target, "interrupted"))
                raise Interrupted(report) from None
            if isinstance(outcome, Failure):
                report.errors.append(outcome)
            else:
                yield target, outcome


def each_target(
    targets: Iterable[str], report: Report, work: Callable[[str], T], doing: str = "recording"
) -> Iterator[tuple[str, T]]:
    """Yield each target with the result of `work`; add failures to the report. See `Targets`.

    Raises:
        Interrupted: on Ctrl-C, with the report.
    """
    unique = list(dict.fromkeys(targets))
    with Targets(unique, work, doing) as outcomes:
        yield from outcomes.of(unique, report)


def outcome_of(
    target: str, given: Options, work: Callable[[str, Options], T], view: View, doing: str = "recording"
) -> T | None:
    """Return the result of `work` for one target, as `outcomes_of` does; None if that failed."""
    return next(iter(outcomes_of([target], given, work, view, doing)), None)


def outcomes_of(
    targets: Sequence[str], given: Options, work: Callable[[str, Options], T], view: View, doing: str
) -> list[T]:
    """Return the results of `work` for targets under their settings, without those that failed.

    The errors of these are written to stderr.

    Raises:
        Interrupted: on Ctrl-C, with the report.
    """

    def configured(target: str) -> T:
        return work(target, given.configured(Configuration().of_target(target), target))

    report = Report()
    outcomes = [outcome for _, outcome in each_target(targets, report, configured, doing)]
    streams.write_error(concise.errors(report, view))
    return outcomes


class _Here:
    """The outcomes of targets in this process."""

    def __init__(self, targets: Sequence[str], attempt: Callable[[str], Any]) -> None:
        self._left = iter(targets)
        self._attempt = attempt

    def next(self) -> Any:
        """Return the outcome of the next target."""
        process = os.getpid()
        with streams.stdout_for_the_report():
            outcome = self._attempt(next(self._left))
            if os.getpid() != process:  # user code has forked, and went on in both processes
                os._exit(0)
        return outcome

    def __enter__(self) -> _Here:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _load_engine(target: str) -> None:
    """Import the engine, and torch with it, which takes a second.

    Raises:
        TargetError: there is no file of that target, so that nothing needs to be imported.
    """
    path = parse_target(target).path
    if path is not None and not path.exists():
        raise missing_path(path)
    _load()


def _load() -> None:
    if "gradlint.engine.check" not in sys.modules:
        with frozen_imports():
            with contextlib.suppress(ImportError):  # the engine reports it
                importlib.import_module("gradlint.recorder.session")
            importlib.import_module("gradlint.engine.check")


def _load_for_workers() -> None:
    """Import all that a worker needs, also to wind up."""
    with frozen_imports():
        _load()
        importlib.import_module("gradlint.runner.wind_up")


def _outcome(target: str, work: Callable[[str], T]) -> T | Failure:
    """Return the result of `work`, or the failure that its exception means."""
    try:
        _load_engine(target)
        start_time_limit()
        return work(target)
    except TargetError as error:
        return Failure(target, str(error), error.traceback)
    except GradlintError as error:
        return Failure(target, str(error))
    except SystemExit as error:
        return Failure(target, f"the code under check called sys.exit({error.code!r})")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == "torch":
            return Failure(target, str(torch_missing(error)))
        return Failure(target, *InternalError.from_exception(error, "on this target"))
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return Failure(target, f"the code under check raised {type(error).__name__}", user_traceback(error))
