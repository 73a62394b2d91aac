"""A supervisor, for the process that started it."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Any, NoReturn

from gradlint.cli.workers.limits import INTERRUPT_GRACE
from gradlint.cli.workers.orders import INTERRUPT, KILL
from gradlint.cli.workers.pipes import Inbox, pipe


class SupervisorHandle:
    """A supervisor, for the process that started it."""

    def __init__(self, pid: int, results: int, orders: int) -> None:
        self.pid = pid
        self.busy = False
        """True while a worker handles the next target."""
        self.done = 0
        """Number of targets handled."""
        self._inbox = Inbox(results)
        self._orders = orders
        self._code: int | None = None

    @classmethod
    def started(cls, supervise: Callable[[int, int, dict[int, Any]], NoReturn]) -> SupervisorHandle:
        """Start a supervisor that runs `supervise`; see `SupervisedTargets.supervise`."""
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nothing can wait for a process
        results, orders = pipe(), pipe()
        signals: dict[int, Any] = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        pid = os.fork()
        if pid == 0:
            os.close(results[0])
            os.close(orders[1])
            supervise(results[1], orders[0], signals)
        os.close(results[1])
        os.close(orders[0])
        return cls(pid, results[0], orders[1])

    def read(self) -> bytes | None:
        """Return the next message; None if there will be none."""
        while (message := self._inbox.take()) is None and self._inbox.is_open:
            self._inbox.read()
        return message

    def end(self, *, interrupts: bool) -> None:
        """End the supervisor and its worker; an interrupted one gets some time."""
        limit = time.monotonic() + 2 * INTERRUPT_GRACE
        self._send_order(INTERRUPT if interrupts else KILL)
        while True:
            try:
                while not self._has_ended() and time.monotonic() < limit:
                    time.sleep(0.01)
                break
            except KeyboardInterrupt:  # pressed again
                self._send_order(KILL)
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
        os.close(self._inbox.descriptor)
        os.close(self._orders)

    def _send_order(self, order: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(self._orders, order)
            os.kill(self.pid, signal.SIGINT)  # ends it while it imports torch
