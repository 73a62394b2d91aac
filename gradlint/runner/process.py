"""The script's process, and the supervisor: a process between gradlint and it that ends both when one is gone.

gradlint can be killed without a chance to end anything. So its fork, in a session of its own, starts the script's
process and adopts what that leaves behind. The supervisor ends all of them when gradlint asks for it, or is gone. Then
it stays until gradlint has let go of it, and deletes the report: gradlint can be killed up to its last moment.

Where there is no fork (Windows), gradlint starts the script's process itself. That one notices by its stdin alone that
gradlint is gone. Where no orphan can be adopted (macOS), a process that left the script's session stays.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import NoReturn, Protocol

from gradlint.runner.job import INTERRUPT_GRACE, discard
from gradlint.system import process_tree

_WINDOWS = os.name == "nt"
_INTERRUPT, _END = b"i", b"e"
"""Messages to the supervisor."""
_ENDED = b"E"
"""The supervisor's answer to `_END`; about then it also sends the script's exit code, as digits."""
_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT")
"""Names of the signals that a user or a system sends to end a program."""
_KILL_LIMIT = 5.0
"""Seconds in which what the script left behind is killed."""


class ScriptProcess(Protocol):
    """The process of a script, as far as gradlint knows it."""

    def interrupt(self) -> None:
        """Interrupt the script as Ctrl-C does."""

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if the process does not end within some seconds."""

    def end(self) -> None:
        """End the process and all that it started."""

    def close(self) -> None:
        """Delete the report, if nobody did, and what was needed to end the process."""


class DirectProcess:
    """The script's process as our own child, the leader of a session."""

    def __init__(self, environment: Mapping[str, str], stdin: int, output: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gradlint.runner"],
            stdin=stdin,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=not _WINDOWS,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) if _WINDOWS else 0,
        )

    def interrupt(self) -> None:
        """Interrupt the script as Ctrl-C does."""
        with contextlib.suppress(OSError, ValueError):
            self._process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGINT))

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if the process does not end within some seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def end(self) -> None:
        """End the process and its group."""
        if _WINDOWS:
            process_tree.end_tree(self._process.pid)
            self.wait(5.0)
            return
        for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)
            self.wait(seconds)

    def close(self) -> None:
        """Do nothing: the one who made the place for the report deletes it."""


class SupervisedProcess:
    """The script's process as a child of the supervisor."""

    def __init__(self, environment: Mapping[str, str], stdin: int, output: int, report: str, unused: int) -> None:
        """Fork the supervisor, which starts the script's process.

        Args:
            environment: that of the script.
            stdin: file descriptor that the job comes from.
            output: file descriptor for stdout and stderr of the script.
            report: file of the report, which is discarded at `close` or when gradlint is gone.
            unused: file descriptor that the supervisor closes: the other end of `stdin`.

        Raises:
            OSError: there is no place for another process.
        """
        self._link, supervisor_end = socket.socketpair()
        self._code: int | None = None
        with warnings.catch_warnings():  # about threads: the supervisor needs no lock that one may hold
            warnings.simplefilter("ignore", DeprecationWarning)
            self._pid = os.fork()
        if self._pid == 0:
            self._link.close()
            os.close(unused)
            _supervise(supervisor_end, environment, stdin, output, report)
        supervisor_end.close()

    def interrupt(self) -> None:
        """Interrupt the script as Ctrl-C does."""
        self._send(_INTERRUPT)

    def wait(self, seconds: float) -> int | None:
        """Return the exit code; None if the process does not end within some seconds."""
        if self._code is None and select.select([self._link], [], [], seconds)[0]:
            message = self._link.recv(64)
            # an empty message: the supervisor was killed, and no process waits for the script
            self._code = int(message) if message else -signal.SIGKILL
        return self._code

    def end(self) -> None:
        """End the process and all that it started."""
        self._send(_END)
        with contextlib.suppress(OSError):
            while (answer := self._link.recv(64)) and _ENDED not in answer:
                pass

    def close(self) -> None:
        """Delete the report and end the supervisor."""
        self._link.close()
        with contextlib.suppress(ChildProcessError):  # it was killed, and waited for as a child beyond those we know
            os.waitpid(self._pid, 0)

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._link.send(message)


def _supervise(link: socket.socket, environment: Mapping[str, str], stdin: int, output: int, report: str) -> NoReturn:
    """Start the script's process, and end it when gradlint says so or is gone."""
    try:
        for name in _SIGNALS:
            number = getattr(signal, name)
            if signal.getsignal(number) is not signal.SIG_IGN:  # the script is to ignore what we were started to ignore
                signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nothing can wait for the script
        os.setsid()
        with orphans_adopted():
            script = DirectProcess(environment, stdin, output)
            os.close(stdin)
            _detach_streams()
            threading.Thread(target=_report_exit_code, args=(script, link), daemon=True).start()
            is_told = _receive_orders(link, script)
            if not is_told:
                script.wait(INTERRUPT_GRACE + 1.0)  # it interrupts itself
            script.end()
        if is_told:
            _await_end_of_gradlint(link)
        discard(report)
    finally:
        os._exit(0)
    raise SystemExit


def _detach_streams() -> None:
    """Close the standard streams, so that their readers see the end of gradlint and the script."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)


def _report_exit_code(script: ScriptProcess, link: socket.socket) -> None:
    code = script.wait(threading.TIMEOUT_MAX)
    with contextlib.suppress(OSError):
        link.send(str(code).encode())


def _receive_orders(link: socket.socket, script: ScriptProcess) -> bool:
    """Pass on interrupts; return True at the order to end, False if gradlint is gone."""
    while True:
        try:
            message = link.recv(1)
        except ConnectionError:
            return False
        if message != _INTERRUPT:
            return message == _END
        script.interrupt()


def _await_end_of_gradlint(link: socket.socket) -> None:
    """Say that the script is gone, and wait until gradlint closes the link or is gone."""
    with contextlib.suppress(OSError):
        link.send(_ENDED)
        while link.recv(64):
            pass


@contextlib.contextmanager
def orphans_adopted() -> Iterator[None]:
    """Adopt processes that leave the group when their parents end, and kill them at exit.

    This works on Linux only.
    """
    before = set(process_tree.children(os.getpid()))
    is_adopting = process_tree.adopt_orphans()
    try:
        yield
    finally:
        if is_adopting:
            _kill_children_beyond(before)
            process_tree.adopt_orphans(False)


def _kill_children_beyond(before: set[int]) -> None:
    """Kill the children of this process, but for those that it had before."""
    limit = time.monotonic() + _KILL_LIMIT
    while time.monotonic() < limit:
        strays = set(process_tree.children(os.getpid())) - before
        if not strays:
            return
        for pid in strays:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in strays:
            with contextlib.suppress(OSError):
                os.waitpid(pid, os.WNOHANG)
