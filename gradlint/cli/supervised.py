"""A command that runs user code works in a process of its own, so that the end of that process can be reported.

User code can end its process behind Python's back: `os._exit`, a crash in C, the system when memory runs out. The
process that the user started only waits. It then starts the work again without the target that ended it. Where there
is no fork (Windows), the work is done in one process, and such an end is not reported.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from gradlint.findings import Failure

_COMMANDS = frozenset({"check", "lock", "diff", "why"})
_NOTICE = 0.2
"""Seconds in which an interrupt that the terminal sends to both processes is noted by the one that works."""
_THREADS = 20.0
"""Seconds that threads of user code get to end once the work is done."""

_LIMIT = 600.0
"""Seconds that the user code of one target gets, unless an option says otherwise."""
_TIMEOUT = re.compile(r"^Timeout \(\d", re.MULTILINE)
"""The first line that faulthandler writes when it ends a process that takes too long."""

crashed: dict[str, Failure] = {}
"""Target → how it ended the process in which it ran before."""


class _Diary:
    """What the working process leaves for the waiting one: a file that has no name."""

    def __init__(self) -> None:
        import fcntl  # there is none without fork

        if hasattr(os, "memfd_create"):  # needs no folder that can be written to
            made = os.memfd_create("gradlint")
        else:
            import tempfile  # slow to import

            with tempfile.TemporaryFile() as file:
                made = os.dup(file.fileno())
        self._number = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)  # not the number of a closed stdout
        os.close(made)

    def write(self, *words: object) -> None:
        with contextlib.suppress(OSError):
            os.write(self._number, ("\n@" + " ".join(map(str, words)) + "\n").encode("utf-8", "surrogateescape"))

    def fileno(self) -> int:
        return self._number

    def text(self) -> str:
        size = os.fstat(self.fileno()).st_size
        return os.pread(self.fileno(), size, 0).decode("utf-8", "surrogateescape")  # the offset is the writer's


_diary: _Diary | None = None


@contextlib.contextmanager
def running(target: str, limit: float | None = None) -> Iterator[None]:
    """Note that user code runs, and end the process if it takes longer than its limit.

    The limit is in seconds. The end comes from a thread of C, because user code may never
    let another thread of Python run.
    """
    if _diary is None:
        yield
        return
    seconds = _LIMIT if limit is None else limit
    _diary.write("limit", f"{seconds:g} s", "" if limit is None else "(--timeout)")
    _diary.write("target", target)
    faulthandler.dump_traceback_later(seconds, file=_diary.fileno(), exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def in_own_process(arguments: Sequence[str], work: Callable[[], int], fail: Callable[[str], int]) -> int:
    """Return the exit code of a command; in the process that works, this call does not return.

    Args:
        arguments: those of the command line.
        work: does what they ask for.
        fail: reports a message as an error.
    """
    if not hasattr(os, "fork") or not arguments or arguments[0] not in _COMMANDS:
        return work()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else nothing can wait for a process
    while True:
        try:
            diary = _Diary()
            child = os.fork()
        except OSError:  # too many processes, no place for a file
            return work()
        if child == 0:
            _work(diary, work)
        status = _wait(child, diary)
        entries = diary.text().split("\n@")
        code = next((int(e.split()[1]) for e in entries if e.startswith("done ")), None)
        if code is not None:
            return code
        failure = _failure(status, entries)
        if not failure.target or failure.target in crashed or "-" in arguments:  # stdin cannot be read again
            return fail(": ".join(filter(None, (failure.target, failure.message))))
        crashed[failure.target] = failure


def _work(diary: _Diary, work: Callable[[], int]) -> NoReturn:
    """Do the work, note its exit code, and exit with it."""
    global _diary
    _diary = diary
    signal.signal(signal.SIGINT, _interrupt)
    _end_with_parent()
    faulthandler.enable(diary.fileno(), all_threads=False)
    process, leave = os.getpid(), os._exit

    def exit_hard(status: int) -> NoReturn:
        if os.getpid() == process:
            diary.write("exit", status)
            faulthandler.dump_traceback(diary.fileno(), all_threads=False)
        leave(status)
        raise SystemExit

    os._exit = exit_hard
    code = work()
    diary.write("done", code)
    os._exit = leave
    if any(t is not threading.main_thread() and not t.daemon for t in threading.enumerate()):
        timer = threading.Timer(_THREADS, leave, [code])
        timer.daemon = True
        timer.start()
    sys.exit(code)


def _interrupt(number: int, frame: Any) -> None:
    if _diary is not None:
        _diary.write("interrupted")
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """Let the system end this process with the one that waits for it; Linux only."""
    if sys.platform.startswith("linux"):
        import ctypes  # torch imports it too

        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _wait(child: int, diary: _Diary) -> int:
    """Return the exit code of the working process, which gets the signals that end this one.

    They reach it as Ctrl-C.
    """
    asked = 0

    def pass_on(number: int, frame: Any) -> None:
        nonlocal asked
        asked += 1
        seen = 0
        if number == signal.SIGINT:  # the terminal sends it to both processes
            time.sleep(_NOTICE)
            seen = diary.text().count("\n@interrupted")
        if seen < asked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGINT if asked == 1 else signal.SIGKILL)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name)
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, pass_on)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _failure(code: int, entries: Sequence[str]) -> Failure:
    """Return how the working process ended, by its exit code and its diary."""
    from gradlint.findings import Failure
    from gradlint.load import crash  # no other end needs it

    target, limit = _last(entries, "target"), _last(entries, "limit")
    last = entries[-1]
    if last.startswith("exit "):
        message = f"the code under check called os._exit({last.split()[1]})"
    elif _TIMEOUT.search(last):
        message = f"the code under check did not end within {limit.strip()}"
        last = last.rpartition("\nThread 0x")[2]  # the main thread comes last
    else:
        message = f"the process of the code under check {crash.end_in_words(code)}"
    return Failure(target, message, crash.traceback_of_crash(last))


def _last(entries: Sequence[str], word: str) -> str:
    """Return what the last entry of a diary that begins with a word says; empty without any."""
    begun = (e for e in reversed(entries) if e.startswith(f"{word} "))
    return next((e.partition("\n")[0].partition(" ")[2] for e in begun), "")
