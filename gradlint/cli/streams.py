"""Streams: where the report goes, how it may look, and how stdout is kept for it alone."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from gradlint.gc_pause import is_own_process
from gradlint.legible import guarded, one_line

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


def write(text: str, *, color: bool = False, kept: str = "\t") -> None:
    """Write a text for people to stdout, with escapes for what is unsafe in it.

    `color` and `kept` are those of `legible.guarded`.
    """
    _write(_stdout(), guarded(text, color=color, kept=kept))


def write_document(text: str) -> None:
    """Write a text for programs to stdout as it is."""
    _write(_stdout(), text)


def write_bytes(data: bytes) -> None:
    """Write bytes to stdout: source from stdin keeps its own encoding."""
    stream = _stdout()
    stream.flush()
    binary = getattr(stream, "buffer", None)
    if binary is None:
        _write(stream, data.decode("utf-8", "replace"))
        return
    binary.write(data)
    binary.flush()


def write_error(text: str, *, color: bool = False) -> None:
    """Write a text for people to stderr, with escapes for what is unsafe in it.

    Nothing happens if it is closed.
    """
    with contextlib.suppress(OSError, ValueError):
        _write(sys.stderr, guarded(text, color=color))


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:
        return
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "backslashreplace").decode(stream.encoding))
    stream.flush()


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
            os.dup2(saved, 1)
            os.close(saved)


def seal_stdout() -> None:
    """Send to stderr what user code writes while the interpreter shuts down.

    This is not undone. It does nothing if no user code ran.
    """
    if not _user_code_ran or _own_stdout is not None:
        return
    _flush()
    saved = _point_stdout_at_stderr()
    if saved is not None:
        os.close(saved)
    sys.stdout = sys.stderr


def close_stdout() -> None:
    """Let what is still written to stdout be lost."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for number in {1, *([_own_stdout.fileno()] if _own_stdout is not None else [])}:
        os.dup2(nothing, number)


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

    A whole line: what the user's code prints, tqdm's bars for one, must not meet a half-written one.
    """
    if not _is_terminal(sys.stderr):
        yield
        return
    timer = threading.Timer(after, write_error, [one_line(text) + "\n"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
