"""The process between the one that the user started and those that run user code."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from gradlint.cli import streams
from gradlint.cli.workers.crash_log import CrashLog
from gradlint.cli.workers.limits import Limits
from gradlint.cli.workers.orders import Orders
from gradlint.cli.workers.pipes import WORKER_STARTED, pipe, send
from gradlint.cli.workers.worker import run_worker
from gradlint.cli.workers.worker_monitor import WorkerMonitor
from gradlint.errors import GradlintError
from gradlint.findings import Failure
from gradlint.system import process_tree

_PRELOAD_LIMIT = 120.0
"""Seconds that the supervisor may take to import what a worker imported."""
_NO_LONGER_FORKABLE = 75
"""Exit code of a supervisor that must not be forked any more."""


class Supervisor:
    """The process between the one that the user started and those that run user code."""

    def __init__(self, results: int, orders: int, signals: dict[int, Any], limits: Limits) -> None:
        self.results = results
        self.orders = Orders(orders)
        self.limits = limits
        self.signals = signals
        """Signal → how the user's process handles it."""

    def run(
        self, targets: Sequence[str], attempt: Callable[[str], Any], prepare: Callable[[], object], *, preloads: bool
    ) -> None:
        """Start the workers, one after the other."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        process_tree.adopt_orphans()
        streams.leave_stdout()
        has_several = sum(map(_exists, targets)) > 1 and sys.platform != "darwin"  # whose frameworks survive no fork
        if has_several:
            with contextlib.suppress(Exception):  # each worker reports it
                prepare()
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for number, target in enumerate(targets, 1):
            self._send_message(WORKER_STARTED)
            imported = self._run_target(
                target, attempt, reports_imports=has_several and preloads and number < len(targets)
            )
            if self.orders.is_ending:
                return
            if imported:
                self._preload(imported)

    def _send_message(self, message: bytes) -> None:
        try:
            send(self.results, message)
        except OSError:
            self.orders.is_ending = True

    def _run_target(self, target: str, attempt: Callable[[str], Any], *, reports_imports: bool) -> list[str]:
        """Run one target and send its outcome; return the library modules that it imported."""
        try:
            crash_log = CrashLog()
            reading, writing = pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which no library leaves here
                child = os.fork()
        except OSError as error:
            self._send_message(pickle.dumps(not_started(target, error)))
            return []
        if child == 0:
            for number in (reading, self.results, self.orders.fileno()):
                os.close(number)
            run_worker(
                target, attempt, writing, crash_log, self.limits.seconds, self.signals, reports_imports=reports_imports
            )
        os.close(writing)
        monitor = WorkerMonitor(child, reading, crash_log, self.orders, self.limits)
        try:
            outcome = monitor.outcome()
            if self.orders.is_ending:
                return []
            if outcome is None:
                self._send_message(pickle.dumps(monitor.failure(target)))
                return []
            self._send_message(outcome)
            imported = monitor.imported_modules() if reports_imports else None
            monitor.wait_for_end()
            return [] if imported is None else list(pickle.loads(imported))
        finally:
            monitor.kill()
            crash_log.close()
            os.close(reading)

    def _preload(self, names: Sequence[str]) -> None:
        """Import the libraries that a worker imported, so that the next ones need not.

        The supervisor ends if it could not be forked any more after that.
        """
        import faulthandler
        import gc
        import importlib
        import threading

        faulthandler.dump_traceback_later(_PRELOAD_LIMIT, file=os.open(os.devnull, os.O_WRONLY), exit=True)
        with streams.muted(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                with contextlib.suppress(BaseException):
                    importlib.import_module(name)
        faulthandler.cancel_dump_traceback_later()
        gc.freeze()  # else each worker scans them
        if threading.active_count() > 1 or process_tree.children(os.getpid()) or _uses_gpu():
            os._exit(_NO_LONGER_FORKABLE)


def not_started(target: str, error: OSError) -> Failure:
    """Return the failure of a target for which the system starts no process."""
    return Failure(target, f"no process can be started: {error.strerror or error}")


def _exists(target: str) -> bool:
    from gradlint.load.target import parse_target  # once there is anything to run

    try:
        path = parse_target(target).path
    except GradlintError:
        return False
    return path is None or path.exists()


def _uses_gpu() -> bool:
    """Return True if this process has opened a GPU, which a fork of it could not use."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}").startswith("/dev/nvidia"):
                    return True
    return False
