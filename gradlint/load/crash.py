"""Ends of a process that Python cannot report itself, in words."""

from __future__ import annotations

import linecache
import re
import signal

from gradlint.load.build import is_glue
from gradlint.system.installed import is_library_file

_TIMEOUT = re.compile(r"^Timeout \(\d", re.MULTILINE)
"""The first line that faulthandler writes when it ends a process that takes too long."""
_FRAME = re.compile(r'  File "(.*)", line (\d+) in (.*)')


def end_in_words(code: int) -> str:
    """Return how a process ended, by its exit code; a negative one is a signal's number."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = f" ({signal.Signals(-code).name})"
    except ValueError:
        name = ""
    return f"was ended by signal {-code}{name}"


def is_timeout(dump: str) -> bool:
    """Return True if faulthandler ended the process because its time was up."""
    return bool(_TIMEOUT.search(dump))


def main_thread(dump: str) -> str:
    """Return the part of a dump of all threads that is about the main one, the last."""
    return re.split(r"\n(?:Current thread|Thread) 0x", dump)[-1]


def last_place(dump: str) -> tuple[str, int] | None:
    """Return the file and line of user code at which a dump was made; None without any."""
    own = [(path, int(number)) for path, number, _ in _user_frames(dump) if not is_library_file(path)]
    return own[-1] if own else None


def traceback_of_crash(dump: str) -> str:
    """Return the user's frames in a dump of faulthandler, as a traceback; empty without any."""
    lines = []
    for path, number, function in _user_frames(dump):
        lines.append(f'  File "{path}", line {number}, in {function}\n')
        text = linecache.getline(path, int(number)).strip()
        if text:
            lines.append(f"    {text}\n")
    return "".join(["Traceback (most recent call last):\n", *lines]) if lines else ""


def _user_frames(dump: str) -> list[tuple[str, str, str]]:
    """Return the frames of user code and of what it calls, outermost first.

    Each is path, line and function.
    """
    frames = [frame for frame in reversed(_FRAME.findall(dump)) if not is_glue(frame[0], frame[2])]
    while frames and is_library_file(frames[0][0]):  # what leads to gradlint and from there to user code
        del frames[0]
    return frames
