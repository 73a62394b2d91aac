"""The process that runs the user code of one target, and its messages to the supervisor that started it."""

from __future__ import annotations

import atexit
import errno
import faulthandler
import os
import pickle
import signal
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

from gradlint.cli.workers.crash_log import CrashLog
from gradlint.cli.workers.pipes import send
from gradlint.findings import Failure
from gradlint.system import process_tree
from gradlint.system.installed import OWN_FOLDER, is_library_file

USER_CODE_BEGINS = b""
"""The message that a worker sends when torch is imported and user code begins."""
PIPE_CLOSED = 76
"""Exit code of a worker that cannot reach the supervisor any more."""
TRACEBACK_SIGNAL = getattr(signal, "SIGRTMAX", getattr(signal, "SIGURG", signal.SIGTERM))
"""The signal at which a worker writes its traceback, also from C code."""


class Worker:
    """The worker that this process is.

    Args:
        writing: the descriptor of the pipe to the supervisor.
        crash_log: where ends that Python cannot report are noted.
        seconds: what user code may take.
    """

    current: Worker | None = None

    def __init__(self, writing: int, crash_log: CrashLog, seconds: float) -> None:
        self.process = os.getpid()
        self.exit = os._exit
        self.has_begun = False
        self._writing = writing
        self._crash_log = crash_log
        self._seconds = seconds
        self._dumps = pickle.dumps
        self._write = os.write

    def report_hard_ends(self, signals: Mapping[int, Any]) -> None:
        """Note in the log each end that Python cannot report.

        `signals` says how the process of the user handles each signal.
        """
        for number, handler in signals.items():
            signal.signal(number, signal.SIG_IGN if handler == signal.SIG_IGN else signal.SIG_DFL)
        if signals[signal.SIGINT] != signal.SIG_IGN:
            signal.signal(signal.SIGINT, self._interrupt)
        process_tree.end_with_parent()
        faulthandler.enable(self._crash_log.fileno(), all_threads=False)
        faulthandler.register(TRACEBACK_SIGNAL, self._crash_log.fileno(), all_threads=True)
        os._exit = self._exit_hard

    def begin(self) -> None:
        """Start the time of user code.

        The end comes from a thread of C, because user code may never let another thread of Python run.
        """
        self.has_begun = True
        _forget_exit_handlers()
        faulthandler.dump_traceback_later(self._seconds, file=self._crash_log.fileno(), exit=True)
        self.send(USER_CODE_BEGINS)

    def send_outcome(self, outcome: Any) -> None:
        """Send the outcome of the target; a fork of this process ends here."""
        if os.getpid() != self.process:
            self.exit(0)
        faulthandler.cancel_dump_traceback_later()
        self.send(self._dumps(outcome))

    def send(self, message: bytes) -> None:
        """Send a message to the supervisor."""
        send(self._writing, message, self._write)

    def disconnect(self) -> None:
        """Close the connection to the supervisor."""
        faulthandler.disable()
        faulthandler.unregister(TRACEBACK_SIGNAL)
        os._exit = self.exit
        self._crash_log.close()
        os.close(self._writing)

    def note_closed(self) -> None:
        """Note that user code has closed the pipe to the supervisor."""
        self._crash_log.write("closed")

    def _exit_hard(self, status: int) -> NoReturn:
        if os.getpid() == self.process:
            self._crash_log.write("exit", status)
            faulthandler.dump_traceback(self._crash_log.fileno(), all_threads=False)
        self.exit(status)
        raise SystemExit

    def _interrupt(self, number: int, frame: Any) -> None:
        self._crash_log.write("interrupted")
        raise KeyboardInterrupt


def start_time_limit() -> None:
    """Start the time limit of user code, if this process is a worker."""
    if Worker.current is not None:
        Worker.current.begin()


def run_worker(
    target: str,
    attempt: Callable[[str], Any],
    writing: int,
    crash_log: CrashLog,
    seconds: float,
    signals: Mapping[int, Any],
    *,
    reports_imports: bool,
) -> NoReturn:
    """Attempt a target, send its outcome and end this process.

    Args:
        target: what to attempt.
        attempt: returns the outcome, also for exceptions of user code.
        writing: the descriptor of the pipe to the supervisor.
        crash_log: where ends that Python cannot report are noted.
        seconds: what user code may take.
        signals: signal → how the user's process handles it.
        reports_imports: whether the supervisor wants to know which libraries are imported.
    """
    worker = Worker.current = Worker(writing, crash_log, seconds)
    code = 1
    try:
        worker.report_hard_ends(signals)
        before, opened = set(sys.modules), process_tree.open_descriptors()
        try:
            outcome = attempt(target)
        except KeyboardInterrupt as error:  # matters only if user code raised it
            from gradlint.load.build import user_traceback

            outcome = Failure(target, "the code under check raised KeyboardInterrupt", user_traceback(error))
        worker.send_outcome(outcome)
        code = 0
        if reports_imports:
            worker.send(pickle.dumps(list(_libraries_beyond(before))))
        worker.disconnect()
        if worker.has_begun:
            from gradlint.runner.wind_up import wind_up  # the supervisor has imported it for several targets

            wind_up(opened, finalizes=False)
    except OSError as error:
        if code and error.errno == errno.EBADF:
            worker.note_closed()
            code = PIPE_CLOSED
    finally:
        worker.exit(code)


def _libraries_beyond(before: set[str]) -> Iterator[str]:
    """Yield the modules of libraries that were imported since."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if name not in before and name.isascii() else None
        if isinstance(file, str) and (is_library_file(file) or file.startswith(OWN_FOLDER)):
            yield name


def _forget_exit_handlers() -> None:
    """Forget the exit handlers of libraries; keep those that user code relies on.

    Those of torch take as long as a small check.
    """
    atexit._clear()
    for name, function in (("logging", "shutdown"), ("multiprocessing.util", "_exit_function")):
        handler = getattr(sys.modules.get(name), function, None)
        if handler is not None:
            atexit.register(handler)
    for finalizer in list(getattr(weakref.finalize, "_registry", ())):
        finalizer.atexit = False
    exit_function = getattr(weakref.finalize, "_exitfunc", None)
    if exit_function is not None:
        atexit.register(exit_function)
