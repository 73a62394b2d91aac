"""The parent process: it starts the script's process, waits for the report and ends all of it."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from gradlint.errors import GradlintError
from gradlint.findings import Failure, Report
from gradlint.runner.job import INTERRUPT_GRACE, Job, collect, discard
from gradlint.runner.process import DirectProcess, ScriptProcess, SupervisedProcess, orphans_adopted
from gradlint.system import writing

GRACE = 20.0
"""Seconds that a script gets to end once its time is up, and to run its own teardown once the report is there."""

QUIET = {
    "WANDB_MODE": "disabled",
    "WANDB_SILENT": "true",
    "COMET_MODE": "disabled",
    "NEPTUNE_MODE": "debug",
    "CLEARML_OFFLINE_MODE": "1",
    "DISABLE_MLFLOW_INTEGRATION": "true",
    "TORCHDYNAMO_DISABLE": "1",
}
"""Environment variables that turn off experiment trackers and torch.compile."""


class Process:
    """The process of a script, begun before it is known what to run: it imports torch meanwhile."""

    def __init__(self, process: ScriptProcess, pipe: int, report: str, ending: contextlib.ExitStack) -> None:
        self._process = process
        self._pipe = pipe
        self._report = report
        self._ending = ending

    def run(self, job: Job, on_wait: Callable[[], None] = lambda: None) -> Report:
        """Run a script once and return its report; no process of it remains.

        Args:
            job: what to run; where the report goes is seen to here.
            on_wait: called if an interrupted script does not end soon.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C, or a signal asks this process to end; the script is ended, at
                the latest with the context of `begun`.
        """
        began = time.monotonic()
        job = replace(job, report=self._report)
        try:
            self._give(job)
            code = _wait(self._process, job)
        except KeyboardInterrupt:
            self._interrupt(on_wait)
            raise
        self._ending.close()
        report = collect(job.report)
        if report is None:
            is_late = code is None or time.monotonic() - began > job.seconds
            report = Report(errors=[_silence(job, None if is_late else code)])
        return report

    def _give(self, job: Job) -> None:
        # the pipe stays open: it reaches its end for the other process when this one is gone
        with contextlib.suppress(BrokenPipeError), open(self._pipe, "wb", closefd=False) as stdin:
            pickle.dump(job, stdin)  # it may have died already

    def _interrupt(self, on_wait: Callable[[], None]) -> None:
        """Interrupt the script as Ctrl-C does, and wait for its end."""
        self._process.interrupt()
        if self._process.wait(2.0) is None:
            on_wait()
            self._process.wait(INTERRUPT_GRACE - 2.0)


@contextlib.contextmanager
def _report() -> Iterator[str]:
    """Yield a place for a report in a folder of its own, which is gone at exit.

    Raises:
        GradlintError: no folder can be made.
    """
    try:
        folder = tempfile.mkdtemp(prefix="gradlint-")
    except OSError as error:
        raise GradlintError(f"no temporary folder can be made: {error.strerror or error}") from error
    report = os.path.join(folder, "report")
    try:
        yield report
    finally:
        discard(report)


@contextlib.contextmanager
def begun(*, tracking: bool = False) -> Iterator[Process]:
    """Begin a script's process; at exit it is gone, whether it was given a job or not.

    Args:
        tracking: leave experiment trackers as the environment has them.

    Raises:
        GradlintError: there is no place for temporary files.
    """
    environment = dict(os.environ)
    if not tracking:
        environment = {**QUIET, **environment}
    with contextlib.ExitStack() as outer, contextlib.ExitStack() as stack:
        outer.enter_context(_end_signals_interrupt())
        report = outer.enter_context(_report())
        process, pipe = outer.enter_context(_started(environment, report))
        stack.enter_context(orphans_adopted())
        stack.callback(_end, process)
        yield Process(process, pipe, report, stack)


def _silence(job: Job, code: int | None) -> Failure:
    """Return the reason why there is no report; without a code, the time is over."""
    try:  # a full disk leaves no report either, and the other process may not have been able to say so
        writing.replace(job.report, bytes(100_000), durable=False)
    except OSError as error:
        folder = os.path.dirname(os.path.dirname(job.report))
        return Failure(job.target, f"no report could be kept in {folder}: {error.strerror or error}")
    from gradlint.load import crash  # no other end needs it

    dump = Path(job.crash).read_text(encoding="utf-8", errors="replace") if os.path.exists(job.crash) else ""
    if code is None:
        message = (
            f"the script was ended after {job.seconds:g} s (--timeout) without a verdict: it did not stop by itself"
        )
        dump = crash.main_thread(dump)
    else:
        message = f"the script's process {crash.end_in_words(code)} before anything could be judged"
    return Failure(job.target, message, crash.traceback_of_crash(dump))


@contextlib.contextmanager
def _end_signals_interrupt() -> Iterator[None]:
    """Interrupt this process as Ctrl-C does if a signal asks it to end, so that nothing stays."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    with contextlib.ExitStack() as stack:
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                with contextlib.suppress(ValueError):  # not in the main thread
                    signal.signal(number, interrupt)
                    stack.callback(signal.signal, number, signal.SIG_DFL)
        yield


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore the signals that interrupt this process."""
    with contextlib.ExitStack() as stack:
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is not None:
                with contextlib.suppress(ValueError):  # not in the main thread
                    stack.callback(signal.signal, number, signal.signal(number, signal.SIG_IGN) or signal.SIG_DFL)
        yield


@contextlib.contextmanager
def _started(environment: Mapping[str, str], report: str) -> Iterator[tuple[ScriptProcess, int]]:
    """Start the process with its output on our stderr; yield it and the pipe to its stdin.

    It is to be ended within the context.
    """
    try:
        output = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        output = subprocess.DEVNULL
    reading, pipe = os.pipe()
    try:
        script: ScriptProcess = SupervisedProcess(environment, reading, output, report, pipe)
    except (AttributeError, OSError):  # there is no fork, or no place for another process
        script = DirectProcess(environment, reading, output)
    os.close(reading)
    try:
        yield script, pipe
    finally:
        os.close(pipe)  # first: it ends a script that nobody ended
        with _undisturbed():
            script.close()


def _end(script: ScriptProcess) -> None:
    """End the process and all that it started, whatever the user presses meanwhile."""
    with _undisturbed():
        script.end()


def _wait(process: ScriptProcess, job: Job) -> int | None:
    """Return the exit code; None if the time is over."""
    limit = time.monotonic() + job.seconds + GRACE
    reported: float | None = None
    while True:
        code = process.wait(0.1)
        if code is not None:
            return code
        now = time.monotonic()
        if reported is None and os.path.exists(job.report):
            reported = now
        if now > limit or (reported is not None and now > reported + GRACE):
            return None
