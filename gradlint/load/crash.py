"""Ends of a process that Python cannot report itself, in words."""

from __future__ import annotations

import linecache
import re
import signal

from gradlint.installed import is_library_file
from gradlint.load.build import is_glue

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


def traceback_of_crash(dump: str) -> str:
    """Return the user's frames in a dump of faulthandler, as a traceback; empty without any."""
    frames = [frame for frame in reversed(_FRAME.findall(dump)) if not is_glue(frame[0], frame[2])]
    while frames and is_library_file(frames[0][0]):  # what leads to gradlint and from there to user code
        del frames[0]
    lines = []
    for path, number, function in frames:
        lines.append(f'  File "{path}", line {number}, in {function}\n')
        text = linecache.getline(path, int(number)).strip()
        if text:
            lines.append(f"    {text}\n")
    return "".join(["Traceback (most recent call last):\n", *lines]) if lines else ""
