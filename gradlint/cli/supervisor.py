"""User code works in a process of its own for each target, so that every end of such a process can be reported.

Three processes take part. The one that the user started reads the options and writes the report; no user code runs in
it. It starts a supervisor, which starts a worker for each target, one after the other. User code can end or spoil its
worker alone: by `os._exit`, a crash in C, an endless loop, too much memory, a patched function. The supervisor ends
what the worker leaves behind, and ends itself with the process that started it.

If there are several targets, the supervisor imports torch once, and the workers are forks of that process. It also
imports the libraries that a worker imported, for the workers after it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from gradlint import process_tree
from gradlint.cli import streams
from gradlint.cli.sizes import Size
from gradlint.cli.worker import PIPE_CLOSED, TRACEBACK_SIGNAL, USER_CODE_BEGINS, CrashLog, run_worker
from gradlint.errors import GradlintError
from gradlint.findings import Failure

INTERRUPT_GRACE = 3.0
"""Seconds that interrupted user code gets to end by itself."""
_EXIT_GRACE = 5.0
"""Seconds that threads and exit handlers of user code get once its outcome is known."""
_INTERRUPT_DELAY = 0.2
"""Seconds in which the worker notes an interrupt that the terminal sends to all processes."""
_TIMEOUT_SLACK = 2.0
"""Seconds after its limit at which the supervisor ends a worker that has not ended itself."""
_STARTUP_LIMIT = 300.0
"""Seconds that a worker gets to import torch."""
_ORPHAN_GRACE = 0.5
"""Seconds that the processes of user code get to end with it: some unlink shared memory."""
_PRELOAD_LIMIT = 120.0
"""Seconds that the supervisor may take to import what a worker imported."""
_WORKER_STARTED = b""
"""The message that the supervisor sends when it starts the next worker."""
_NO_LONGER_FORKABLE = 75
"""Exit code of a supervisor that must not be forked any more."""
_INTERRUPT, _KILL = b"i", b"k"


@dataclass(frozen=True)
class Limits:
    """What the user code of one target may take."""

    seconds: float = 600.0
    option: str = ""
    """The option that set the seconds; empty for the default of a command without one."""
    memory: Size | None = None
    """The memory of its worker and of the processes that the worker starts; None for no limit."""


class SupervisedTargets:
    """The outcomes of targets, each from a worker of its own, in order.

    Args:
        targets: each is handled once.
        attempt: returns the outcome of a target; it runs in the worker.
        prepare: imports what each worker needs.
        limits: those of each target.
    """

    def __init__(
        self, targets: Sequence[str], attempt: Callable[[str], Any], prepare: Callable[[], object], limits: Limits
    ) -> None:
        self._left = list(targets)
        self._attempt = attempt
        self._prepare = prepare
        self._limits = limits
        self._supervisor: _SupervisorHandle | None = None
        self._preloads = True

    def next(self) -> Any:
        """Return the outcome of the next target, or the failure that its end means."""
        target = self._left[0]
        while True:
            if self._supervisor is None:
                try:
                    self._supervisor = _SupervisorHandle.started(self)
                except OSError as error:
                    del self._left[0]
                    return _not_started(target, error)
            message = self._supervisor.read()
            if message == _WORKER_STARTED:
                self._supervisor.busy = True
            elif message is not None:
                self._supervisor.busy = False
                self._supervisor.done += 1
                del self._left[0]
                return _loaded(target, message)
            else:
                busy, done, code = self._supervisor.busy, self._supervisor.done, self._supervisor.wait()
                self._supervisor = None
                if not busy and done:  # ended by what a worker left behind, or by the imports that it repeated
                    self._preloads = False
                    continue
                del self._left[0]
                from gradlint.load import crash  # no other end needs it

                return Failure(target, f"the process of the code under check {crash.end_in_words(code)}")

    def __enter__(self) -> SupervisedTargets:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _interrupt)  # as Ctrl-C, so that no process stays
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is None:
            return
        if kind is None and not self._left:
            _exiting.append(supervisor)
        else:
            supervisor.end(interrupts=kind is KeyboardInterrupt)

    def supervise(self, results: int, orders: int, signals: dict[int, Any]) -> NoReturn:
        """Start a worker for each target and pass on its outcome; then end this process.

        Args:
            results: the descriptor of the pipe that outcomes go to.
            orders: that of the pipe that orders come from.
            signals: signal → how the user's process handles it.
        """
        try:
            supervisor = _Supervisor(results, orders, signals, self._limits)
            supervisor.run(self._left, self._attempt, self._prepare, preloads=self._preloads)
        finally:
            os._exit(0)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


_exiting: list[_SupervisorHandle] = []
"""Supervisors whose last worker ends while the report is written."""


def wait_for_workers() -> None:
    """Wait until no process of user code is left."""
    try:
        while _exiting:
            _exiting[-1].wait()
            _exiting.pop()
    except KeyboardInterrupt:
        for supervisor in _exiting:
            supervisor.end(interrupts=False)


def _not_started(target: str, error: OSError) -> Failure:
    return Failure(target, f"no process can be started: {error.strerror or error}")


def _loaded(target: str, message: bytes) -> Any:
    try:
        return pickle.loads(message)
    except Exception as error:
        problem = f"gradlint itself failed on this target ({type(error).__name__}: {error}); please report it"
        return Failure(target, problem)


class _SupervisorHandle:
    """A supervisor, for the process that started it."""

    def __init__(self, pid: int, results: int, orders: int) -> None:
        self.pid = pid
        self.busy = False
        """True while a worker handles the next target."""
        self.done = 0
        """Number of targets handled."""
        self._results = results
        self._orders = orders
        self._code: int | None = None

    @classmethod
    def started(cls, work: SupervisedTargets) -> _SupervisorHandle:
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nothing can wait for a process
        results, orders = _pipe(), _pipe()
        signals: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        pid = os.fork()
        if pid == 0:
            os.close(results[0])
            os.close(orders[1])
            work.supervise(results[1], orders[0], signals)
        os.close(results[1])
        os.close(orders[0])
        return cls(pid, results[0], orders[1])

    def read(self) -> bytes | None:
        """Return the next message; None if there will be none."""
        header = self._read_exactly(8)
        return None if header is None else self._read_exactly(int.from_bytes(header, "big"))

    def _read_exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            part = os.read(self._results, min(size - len(data), 2**20))
            if not part:
                return None
            data += part
        return bytes(data)

    def end(self, *, interrupts: bool) -> None:
        """End the supervisor and its worker; an interrupted one gets some time."""
        limit = time.monotonic() + 2 * INTERRUPT_GRACE
        self._send_order(_INTERRUPT if interrupts else _KILL)
        while True:
            try:
                while not self._has_ended() and time.monotonic() < limit:
                    time.sleep(0.01)
                break
            except KeyboardInterrupt:  # pressed again
                self._send_order(_KILL)
        if not self._has_ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for the end of the supervisor and return its exit code."""
        if self._code is None:
            self._ended_with(os.waitpid(self.pid, 0)[1])
        assert self._code is not None
        return self._code

    def _has_ended(self) -> bool:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._ended_with(status)
        return self._code is not None

    def _ended_with(self, status: int) -> None:
        self._code = os.waitstatus_to_exitcode(status)
        os.close(self._results)
        os.close(self._orders)

    def _send_order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._orders, order)
            os.kill(self.pid, signal.SIGINT)  # ends it while it imports torch


def _pipe() -> tuple[int, int]:
    """Return a pipe that leaves the numbers of closed standard streams free."""
    import fcntl  # there is none without fork

    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]


class _Supervisor:
    """The process between the one that the user started and those that run user code."""

    def __init__(self, results: int, orders: int, signals: dict[int, Any], limits: Limits) -> None:
        self.results = results
        self.orders = orders
        self.limits = limits
        self.signals = signals
        """Signal → how the user's process handles it."""
        self.is_ending = False
        """True once the process that started this one has asked it to end."""

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
            self._send_message(_WORKER_STARTED)
            imported = self._run_target(
                target, attempt, reports_imports=has_several and preloads and number < len(targets)
            )
            if self.is_ending:
                return
            if imported:
                self._preload(imported)

    def read_order(self) -> bytes:
        """Return the last order; empty without a new one."""
        if not select.select([self.orders], [], [], 0)[0]:
            return b""
        self.is_ending = True
        return os.read(self.orders, 16)[-1:] or _KILL

    def _send_message(self, message: bytes) -> None:
        data = memoryview(len(message).to_bytes(8, "big") + message)
        try:
            while data:
                data = data[os.write(self.results, data) :]
        except OSError:
            self.is_ending = True

    def _run_target(self, target: str, attempt: Callable[[str], Any], *, reports_imports: bool) -> list[str]:
        """Run one target and send its outcome; return the library modules that it imported."""
        try:
            crash_log = CrashLog()
            reading, writing = _pipe()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # about threads, which no library leaves here
                child = os.fork()
        except OSError as error:
            self._send_message(pickle.dumps(_not_started(target, error)))
            return []
        if child == 0:
            for number in (reading, self.results, self.orders):
                os.close(number)
            run_worker(
                target, attempt, writing, crash_log, self.limits.seconds, self.signals, reports_imports=reports_imports
            )
        os.close(writing)
        monitor = _WorkerMonitor(child, reading, crash_log, self)
        try:
            outcome = monitor.outcome()
            if self.is_ending:
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


class _WorkerMonitor:
    """What the supervisor sees of one worker."""

    def __init__(self, child: int, reading: int, crash_log: CrashLog, supervisor: _Supervisor) -> None:
        self.child = child
        self.crash_log = crash_log
        self.supervisor = supervisor
        self.limits = supervisor.limits
        self.code: int | None = None
        """The exit code; None while it runs."""
        self.reason = ""
        """Why the supervisor ended it; empty if it did not."""
        self._reading = reading
        self._is_open = True
        self._data = bytearray()
        self._deadline = time.monotonic() + self.limits.seconds + _STARTUP_LIMIT
        self._interrupted: float | None = None

    def outcome(self) -> bytes | None:
        """Return the outcome of the target; None if the worker ended without one."""
        memory = self.limits.memory
        pause = 0.02 if memory else 0.25
        while True:
            message = self._message()
            if message == USER_CODE_BEGINS:
                self._deadline = time.monotonic() + self.limits.seconds + _TIMEOUT_SLACK
                continue
            if message is not None:
                return message
            if self._has_ended():
                return None
            self._follow_order()
            now = time.monotonic()
            if self.supervisor.is_ending:
                if self._interrupted is None or now > self._interrupted + INTERRUPT_GRACE:
                    self._send(signal.SIGKILL)
            elif now > self._deadline:
                self._end(self._timeout_reason())
            elif memory and process_tree.memory_exceeds(self.child, memory.bytes):
                self._end(f"took more than {memory.text} of memory (--max-memory)")
            self._wait(pause)

    def imported_modules(self) -> bytes | None:
        """Return the message that follows the outcome; None if there is none."""
        limit = time.monotonic() + _EXIT_GRACE
        while time.monotonic() < limit and not self.supervisor.is_ending:
            message = self._message()
            if message is not None:
                return message
            if self._has_ended():
                return self._message()
            self._follow_order()
            self._wait(0.05)
        return None

    def wait_for_end(self) -> None:
        """Wait until threads and exit handlers of user code have ended, or their time is over."""
        limit = time.monotonic() + _EXIT_GRACE
        pause = 0.001
        while not self._has_ended() and time.monotonic() < limit and not self.supervisor.is_ending:
            self._follow_order()
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)

    def kill(self) -> None:
        """End the worker, if it has not ended, and what it started."""
        if self.code is None:
            self._send(signal.SIGKILL)
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        process_tree.end_orphans(_ORPHAN_GRACE)

    def failure(self, target: str) -> Failure:
        """Return how the worker ended, by its exit code and its crash log."""
        from gradlint.load import crash  # no other end needs it
        from gradlint.report.view import shown_path

        assert self.code is not None
        last = self.crash_log.text().split("\n@")[-1]
        if not self.reason and crash.is_timeout(last):
            self.reason = self._timeout_reason()
        if self.reason:
            last = crash.main_thread(last)
            place = crash.last_place(last)
            at = f": it was at {shown_path(place[0], Path.cwd())}:{place[1]}" if place else ""
            message = f"the code under check {self.reason}{at}"
        elif last.startswith("exit "):
            message = f"the code under check called os._exit({last.split()[1]})"
        elif self.code == PIPE_CLOSED:
            message = "the code under check closed file descriptors that are not its own"
        else:
            message = f"the process of the code under check {crash.end_in_words(self.code)}"
            if self.code == -signal.SIGKILL:
                message += ", perhaps because memory ran out"
        return Failure(target, message, crash.traceback_of_crash(last))

    def _timeout_reason(self) -> str:
        option = f" ({self.limits.option})" if self.limits.option else ""
        return f"did not end within {self.limits.seconds:g} s{option}"

    def _end(self, reason: str) -> None:
        """End the worker for a reason, after it has written where it stands."""
        size = self.crash_log.size()
        self._send(TRACEBACK_SIGNAL)
        for _ in range(50):
            time.sleep(0.01)
            if self.crash_log.size() > size or self._has_ended():
                break
        time.sleep(0.02)
        self.reason = reason
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.code is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.child, number)

    def _follow_order(self) -> None:
        order = self.supervisor.read_order()
        if order == _KILL or (order and self._interrupted is not None):
            self._send(signal.SIGKILL)
        elif order:
            self._interrupted = time.monotonic()
            time.sleep(_INTERRUPT_DELAY)  # the terminal sends it to all processes
            if "\n@interrupted" not in self.crash_log.text():
                self._send(signal.SIGINT)

    def _has_ended(self) -> bool:
        """Return True if the worker has ended and no message of it is left."""
        if self.code is None:
            pid, status = os.waitpid(self.child, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                self._read()
        return self.code is not None and not self._is_complete()

    def _wait(self, seconds: float) -> None:
        inputs = [self._reading, self.supervisor.orders] if self._is_open else [self.supervisor.orders]
        if self.code is None and self._reading in select.select(inputs, [], [], seconds)[0]:
            self._read()

    def _read(self) -> None:
        while self._is_open and select.select([self._reading], [], [], 0)[0]:
            part = os.read(self._reading, 2**20)
            self._data += part
            self._is_open = bool(part)

    def _is_complete(self) -> bool:
        return len(self._data) >= 8 and len(self._data) >= 8 + int.from_bytes(self._data[:8], "big")

    def _message(self) -> bytes | None:
        if not self._is_complete():
            return None
        end = 8 + int.from_bytes(self._data[:8], "big")
        message = bytes(self._data[8:end])
        del self._data[:end]
        return message


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
