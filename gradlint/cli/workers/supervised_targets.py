"""Targets whose user code runs in workers, for the process that the user started."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from gradlint.cli.workers.limits import Limits
from gradlint.cli.workers.pipes import WORKER_STARTED
from gradlint.cli.workers.supervisor import Supervisor, not_started
from gradlint.cli.workers.supervisor_handle import SupervisorHandle
from gradlint.findings import Failure


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
        self._supervisor: SupervisorHandle | None = None
        self._preloads = True

    def next(self) -> Any:
        """Return the outcome of the next target, or the failure that its end means."""
        target = self._left[0]
        while True:
            if self._supervisor is None:
                try:
                    self._supervisor = SupervisorHandle.started(self.supervise)
                except OSError as error:
                    del self._left[0]
                    return not_started(target, error)
            message = self._supervisor.read()
            if message == WORKER_STARTED:
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
            supervisor = Supervisor(results, orders, signals, self._limits)
            supervisor.run(self._left, self._attempt, self._prepare, preloads=self._preloads)
        finally:
            os._exit(0)


def _interrupt(number: int, frame: Any) -> NoReturn:
    raise KeyboardInterrupt


_exiting: list[SupervisorHandle] = []
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


def _loaded(target: str, message: bytes) -> Any:
    try:
        return pickle.loads(message)
    except Exception as error:
        from gradlint.load.build import InternalError  # not needed otherwise

        return Failure(target, *InternalError.from_exception(error, "on this target"))
