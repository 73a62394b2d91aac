"""Targets handled one by one, so that the fault of one does not stop the others."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gradlint.cli import supervised
from gradlint.cli.exits import Interrupted
from gradlint.cli.streams import progress, stdout_for_the_report
from gradlint.cli.targets import missing_attribute
from gradlint.errors import GradlintError, TargetError
from gradlint.findings import Failure, Report
from gradlint.gc_pause import frozen_imports
from gradlint.load.target import missing_path, parse_target

T = TypeVar("T")


def each_target(
    targets: Iterable[str],
    report: Report,
    work: Callable[[str], T],
    doing: str = "recording",
    limit: float | None = None,
) -> Iterator[tuple[str, T]]:
    """Yield each target with the result of `work`; add failures to the report.

    Args:
        targets: each is handled once.
        report: where failures go.
        work: the user's code runs in it; what it prints goes to stderr.
        doing: what is being done with a target, for the progress line.
        limit: seconds that the user gives each target by an option.

    Raises:
        Interrupted: on Ctrl-C, with the report.
    """
    unique = list(dict.fromkeys(targets))
    for number, target in enumerate(unique, 1):
        place = f" ({number} of {len(unique)})" if len(unique) > 1 else ""
        problem = missing_attribute(target)
        if problem or target in supervised.crashed:
            report.errors.append(Failure(target, problem) if problem else supervised.crashed[target])
            continue
        process = os.getpid()
        shown = progress(f"gradlint: {doing} {target}{place}")
        try:
            with supervised.running(target, limit), shown, stdout_for_the_report():
                outcome = _guarded(target, work)
                if os.getpid() != process:  # the user's code has forked, and went on in both processes
                    os._exit(0)
        except KeyboardInterrupt:
            report.errors.append(Failure(target, "interrupted"))
            raise Interrupted(report) from None
        if isinstance(outcome, Failure):
            report.errors.append(outcome)
        else:
            yield target, outcome


def _load_engine(target: str) -> None:
    """Import the engine, and torch with it, which takes a second.

    Raises:
        TargetError: there is no file of that target, so that nothing needs to be imported.
    """
    path = parse_target(target).path
    if path is not None and not path.exists():
        raise missing_path(path)
    if "gradlint.engine.check" not in sys.modules:
        with frozen_imports():
            with contextlib.suppress(ImportError):  # the engine reports it
                importlib.import_module("gradlint.recorder.session")
            importlib.import_module("gradlint.engine.check")


def _guarded(target: str, work: Callable[[str], T]) -> T | Failure:
    """Return the result of `work`, or the failure that its exception means."""
    try:
        _load_engine(target)
        return work(target)
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
