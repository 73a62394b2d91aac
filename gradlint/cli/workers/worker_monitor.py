"""What the supervisor sees of one worker, and when it ends it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path

from gradlint.cli.workers.crash_log import CrashLog
from gradlint.cli.workers.limits import INTERRUPT_GRACE, Limits
from gradlint.cli.workers.orders import KILL, Orders
from gradlint.cli.workers.pipes import Inbox
from gradlint.cli.workers.worker import PIPE_CLOSED, TRACEBACK_SIGNAL, USER_CODE_BEGINS
from gradlint.findings import Failure
from gradlint.system import process_tree

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


class WorkerMonitor:
    """What the supervisor sees of one worker."""

    def __init__(self, child: int, reading: int, crash_log: CrashLog, orders: Orders, limits: Limits) -> None:
        self.child = child
        self.crash_log = crash_log
        self.orders = orders
        self.limits = limits
        self.code: int | None = None
        """The exit code; None while it runs."""
        self.reason = ""
        """Why the supervisor ended it; empty if it did not."""
        self._inbox = Inbox(reading)
        self._deadline = time.monotonic() + self.limits.seconds + _STARTUP_LIMIT
        self._interrupted: float | None = None

    def outcome(self) -> bytes | None:
        """Return the outcome of the target; None if the worker ended without one."""
        memory = self.limits.memory
        pause = 0.02 if memory else 0.25
        while True:
            message = self._inbox.take()
            if message == USER_CODE_BEGINS:
                self._deadline = time.monotonic() + self.limits.seconds + _TIMEOUT_SLACK
                continue
            if message is not None:
                return message
            if self._has_ended():
                return None
            self._follow_order()
            now = time.monotonic()
            if self.orders.is_ending:
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
        while time.monotonic() < limit and not self.orders.is_ending:
            message = self._inbox.take()
            if message is not None:
                return message
            if self._has_ended():
                return self._inbox.take()
            self._follow_order()
            self._wait(0.05)
        return None

    def wait_for_end(self) -> None:
        """Wait until threads and exit handlers of user code have ended, or their time is over."""
        limit = time.monotonic() + _EXIT_GRACE
        pause = 0.001
        while not self._has_ended() and time.monotonic() < limit and not self.orders.is_ending:
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
        order = self.orders.read()
        if order == KILL or (order and self._interrupted is not None):
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
        return self.code is not None and not self._inbox.has_message()

    def _wait(self, seconds: float) -> None:
        orders = self.orders.fileno()
        inbox = self._inbox
        inputs = [inbox.descriptor, orders] if inbox.is_open else [orders]
        if self.code is None and inbox.descriptor in select.select(inputs, [], [], seconds)[0]:
            self._read()

    def _read(self) -> None:
        inbox = self._inbox
        while inbox.is_open and select.select([inbox.descriptor], [], [], 0)[0]:
            inbox.read()
