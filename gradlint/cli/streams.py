"""Streams: where the report goes, how it may look, and how stdout is kept for it alone."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gradlint.errors import GradlintError
from gradlint.system import writing
from gradlint.system.legible import one_line, sanitized
from gradlint.system.process_tree import is_own_process

if TYPE_CHECKING:
    from gradlint.report.view import View

_user_code_ran = False
_own_stdout: TextIO | None = None
"""The stdout of gradlint's own process once user code has run there, which keeps writing to the other."""


def _stdout() -> TextIO:
    return _own_stdout or sys.stdout


def view_of_stdout(color: str = "auto", *, verbose: bool = False) -> View:
    """Return the view for stdout; `color` is auto, always or never.

    auto obeys NO_COLOR and FORCE_COLOR.
    """
    from gradlint.report.view import View  # loads what --version need not

    stream = _stdout()
    terminal = _is_terminal(stream)
    return View(
        width=max(_columns(stream), 20),
        color=color == "always" or (color == "auto" and _auto_color(terminal)),
        terminal=terminal,
        encoding=getattr(stream, "encoding", None) or "utf-8",
        verbose=verbose,
        root=Path.cwd(),
    )


def _columns(stream: TextIO | None) -> int:
    """Return the width of a terminal; COLUMNS counts first."""
    if stream is not None and stream is _own_stdout and not os.environ.get("COLUMNS", "").isdecimal():
        try:
            return os.get_terminal_size(stream.fileno()).columns or 80
        except OSError:
            return 80
    import shutil  # slow to import, for its archives

    return shutil.get_terminal_size((80, 24)).columns


def _auto_color(terminal: bool) -> bool:
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "") not in ("", "0", "false"):
        return True
    return terminal and os.environ.get("TERM") != "dumb"


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


class StdoutLost(GradlintError):
    """What was written to stdout cannot get there."""

    def __init__(self, error: Exception) -> None:
        self.has_no_reader = isinstance(error, BrokenPipeError)
        """True if the other end of a pipe is closed, as behind ``| head``: its reader has had enough."""
        is_closed = isinstance(error, OSError) and error.errno == errno.EBADF
        problem = "it is closed" if is_closed else getattr(error, "strerror", None) or str(error)
        super().__init__(f"stdout cannot be written: {problem}")


def write(text: str, *, color: bool = False, kept: str = "\t") -> None:
    """Write a text for people to stdout, with escapes for what is unsafe in it.

    `color` and `kept` are those of `legible.sanitized`.

    Raises:
        StdoutLost: it is closed, or takes no more.
    """
    write_document(sanitized(text, color=color, kept=kept))


def write_document(text: str) -> None:
    """Write a text for programs to stdout as it is.

    Raises:
        StdoutLost: it is closed, or takes no more.
    """
    stream = _stdout()
    if text and stream is not None:
        _to_stdout(lambda: _write(stream, text))


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout: source from stdin keeps its own encoding.

    Raises:
        StdoutLost: it is closed, or takes no more.
    """
    stream = _stdout()
    if data:
        _to_stdout(lambda: _write_bytes(stream, data))


def _to_stdout(action: Callable[[], None]) -> None:
    try:
        action()
    except (OSError, ValueError) as error:
        drop_unwritten()
        raise StdoutLost(error) from error


def write_error(text: str, *, color: bool = False) -> None:
    """Write a text for people to stderr, with escapes for what is unsafe in it.

    Nothing happens if it is closed.
    """
    with contextlib.suppress(OSError, ValueError):
        if sys.stderr is not None:
            _write(sys.stderr, sanitized(text, color=color))


def _write(stream: TextIO, text: str) -> None:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if getattr(stream, "buffer", None) is not None:
        _write_bytes(stream, text.replace("\n", os.linesep).encode(encoding, "backslashreplace"))
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _write_bytes(stream: TextIO, data: bytes) -> None:
    stream.flush()
    binary = getattr(stream, "buffer", None)
    if binary is None:
        _write(stream, data.decode("utf-8", "replace"))
        return
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[binary.write(rest) :]
        except BlockingIOError as full:  # another process has made this pipe or terminal so
            rest = rest[full.characters_written :]
            select.select([], [binary], [])
    while True:
        try:
            binary.flush()
            return
        except BlockingIOError:
            select.select([], [binary], [])


@contextlib.contextmanager
def stdout_for_the_report() -> Iterator[None]:
    """Redirect stdout to stderr, for Python, C code and child processes.

    In gradlint's own process that is not undone: a thread of the user's may write at any time.
    """
    global _user_code_ran, _own_stdout
    _user_code_ran = True
    _flush()
    if _own_stdout is not None:
        yield
        return
    saved = _point_stdout_at_stderr()
    if saved is not None:
        writing.redirected[1] = saved
    if is_own_process() and saved is not None and sys.stdout is not None and sys.stderr is not None:
        _own_stdout = open(saved, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)
        sys.stdout = sys.stderr
        yield
        return
    try:
        with contextlib.ExitStack() as stack:
            quiet = sys.stderr or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(quiet))
            yield
    finally:
        _flush()
        if saved is not None:
            writing.redirected.pop(1, None)
            os.dup2(saved, 1)
            os.close(saved)


def seal_stdout() -> None:
    """Send to stderr what user code writes while the interpreter shuts down.

    This is not undone. It does nothing if no user code ran.
    """
    if _user_code_ran and _own_stdout is None:
        leave_stdout()


def leave_stdout() -> None:
    """Send to stderr whatever this process, or one that it starts, writes to stdout from now on."""
    _flush()
    saved = _point_stdout_at_stderr()
    if saved is not None:
        os.close(saved)
    sys.stdout = sys.stderr


def drop_unwritten() -> None:
    """Discard what stdout and stderr do not take.

    The interpreter would fail to write it at its end. Nothing happens in a process that is not gradlint's own.
    """
    if not is_own_process():
        return
    for stream in (_own_stdout, sys.stdout, sys.__stdout__, sys.__stderr__):
        if not isinstance(stream, io.TextIOWrapper):
            continue
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                nothing = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nothing, stream.fileno())
                os.close(nothing)


def fill_closed() -> None:
    """Give closed standard streams descriptors that can be neither read nor written.

    Else the next file that is opened gets the number of one, and what is printed goes there.
    """
    for number, mode in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(number)
        except OSError:
            nothing = os.open(os.devnull, mode)
            if nothing != number:
                os.dup2(nothing, number)
                os.close(nothing)
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Discard what is written to stderr."""
    try:
        saved = os.dup(2)
    except OSError:  # closed
        yield
        return
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        _flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nothing)


def _point_stdout_at_stderr() -> int | None:
    """Redirect file descriptor 1 to stderr and return a copy of it; None if it is closed."""
    try:
        saved = os.dup(1)
    except OSError:
        return None
    try:
        os.dup2(2, 1)
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)
    return saved


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, sys.__stdout__):
        with contextlib.suppress(Exception):
            if stream is not None:
                stream.flush()
    # C's own buffer of stdout would otherwise reach the report when the process ends.
    with contextlib.suppress(Exception):
        import ctypes  # not everywhere there, and not needed before user code runs

        ctypes.CDLL(None).fflush(None)


@contextlib.contextmanager
def progress(text: str, after: float = 1.0) -> Iterator[None]:
    """Write a progress line to stderr after `after` seconds; only on a terminal.

    Later ones say how long it takes. Whole lines: what the user's code prints, tqdm's bars for one, must not meet a
    half-written one.
    """
    if not _is_terminal(sys.stderr):
        yield
        return
    ended = threading.Event()
    threading.Thread(target=_tell, args=(one_line(text), after, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _tell(text: str, after: float, ended: threading.Event) -> None:
    """Write a progress line after some seconds, after ten, and whenever the time has doubled."""
    begun = time.monotonic()
    elapsed = after
    while not ended.wait(begun + elapsed - time.monotonic()):
        write_error(f"{text}\n" if elapsed == after else f"{text}: {elapsed:.0f} s\n")
        elapsed = max(10.0, 2 * elapsed)
