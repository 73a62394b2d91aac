"""The parent process: it starts the script's process, waits for the report and ends all of it."""

from __future__ import annotations

import contextlib
import ctypes
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

from gradlint import writing
from gradlint.errors import GradlintError
from gradlint.findings import Failure, Report
from gradlint.runner.job import INTERRUPT_GRACE, Job, collect

GRACE = 20.0
"""Seconds that a script gets to end once its time is up, and to run its own teardown once the report is there."""
_WINDOWS = os.name == "nt"

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

    def __init__(self, process: subprocess.Popen[bytes], ending: contextlib.ExitStack) -> None:
        self._process = process
        self._ending = ending

    def run(self, job: Job, on_wait: Callable[[], None] = lambda: None) -> Report:
        """Run a script once and return its report; no process of it remains.

        Args:
            job: what to run; where the report goes is seen to here.
            on_wait: called if an interrupted script does not end soon.

        Raises:
            GradlintError: there is no place for temporary files.
            KeyboardInterrupt: the user pressed Ctrl-C, or a signal asks this process to end; the script is ended, at
                the latest with the context of `begun`.
        """
        began = time.monotonic()
        with _folder() as folder:
            job = replace(job, report=str(Path(folder) / "report"))
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
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it may have died already
            pickle.dump(job, self._process.stdin)
            self._process.stdin.flush()

    def _interrupt(self, on_wait: Callable[[], None]) -> None:
        """Interrupt the script as Ctrl-C does, and wait for its end."""
        with contextlib.suppress(OSError, ValueError):
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))
        with contextlib.suppress(subprocess.TimeoutExpired):
            try:
                self._process.wait(2.0)
            except subprocess.TimeoutExpired:
                on_wait()
                self._process.wait(INTERRUPT_GRACE - 2.0)


def _folder() -> tempfile.TemporaryDirectory[str]:
    try:
        return tempfile.TemporaryDirectory(prefix="gradlint-", ignore_cleanup_errors=True)
    except OSError as error:
        raise GradlintError(f"no temporary folder can be made: {error.strerror or error}") from error


@contextlib.contextmanager
def begun(*, tracking: bool = False) -> Iterator[Process]:
    """Begin a script's process; at exit it is gone, whether it was given a job or not.

    Args:
        tracking: leave experiment trackers as the environment has them.
    """
    environment = dict(os.environ)
    if not tracking:
        environment = {**QUIET, **environment}
    with contextlib.ExitStack() as stack:
        stack.enter_context(_end_signals_interrupt())
        stack.enter_context(_orphans_adopted())
        process = stack.enter_context(_started(environment))
        yield Process(process, stack)


def _silence(job: Job, code: int | None) -> Failure:
    """Return the reason why there is no report."""
    try:
        writing.replace(job.report, bytes(100_000), durable=False)
    except OSError as error:
        folder = os.path.dirname(os.path.dirname(job.report))
        return Failure(job.target, f"no report could be kept in {folder}: {error.strerror or error}")
    if code is None:
        return Failure(
            job.target,
            f"the script was ended after {job.seconds:g} s (--timeout) without a verdict: it reached no step",
        )
    from gradlint.load import crash  # no other end needs it

    dump = Path(job.crash).read_text(encoding="utf-8", errors="replace") if os.path.exists(job.crash) else ""
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
def _started(environment: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Start the process in a group of its own, with its output on our stderr.

    At exit the whole group is ended.
    """
    try:
        stderr: int | None = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):
        stderr = None
    output = subprocess.DEVNULL if stderr is None else stderr
    process = subprocess.Popen(
        [sys.executable, "-m", "gradlint.runner"],
        stdin=subprocess.PIPE,
        stdout=output,
        stderr=output,
        env=dict(environment),
        start_new_session=not _WINDOWS,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if _WINDOWS else 0,
    )
    try:
        yield process
    finally:
        with _undisturbed():
            _end(process)
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()


def _wait(process: subprocess.Popen[bytes], job: Job) -> int | None:
    """Return the exit code; None if the time is over."""
    limit = time.monotonic() + job.seconds + GRACE
    reported: float | None = None
    while True:
        try:
            return process.wait(0.1)
        except subprocess.TimeoutExpired:
            now = time.monotonic()
            if reported is None and os.path.exists(job.report):
                reported = now
            if now > limit or (reported is not None and now > reported + GRACE):
                return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it started."""
    if _WINDOWS:
        if process.poll() is None:
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    process.wait()


@contextlib.contextmanager
def _orphans_adopted() -> Iterator[None]:
    """Adopt processes that leave the group when their parents end, and end them too.

    This works on Linux only.
    """
    if not sys.platform.startswith("linux"):
        yield
        return
    before = set(_children())
    adopting = _set_subreaper(True)
    try:
        yield
    finally:
        if adopting:
            for _ in range(50):
                strays = [pid for pid in _children() if pid not in before]
                if not strays:
                    break
                for pid in strays:
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                    with contextlib.suppress(OSError):
                        os.waitpid(pid, 0)
            _set_subreaper(False)


def _set_subreaper(flag: bool) -> bool:
    try:
        return bool(ctypes.CDLL(None).prctl(36, int(flag), 0, 0, 0) == 0)  # PR_SET_CHILD_SUBREAPER
    except (OSError, AttributeError):
        return False


def _children() -> list[int]:
    """Return our child processes."""
    pids: list[int] = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            if int(status.rpartition(")")[2].split()[1]) == os.getpid():
                pids.append(int(folder.name))
    return pids
