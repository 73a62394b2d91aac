"""Source files of every kind: Python, and notebooks."""

from __future__ import annotations

import hashlib
import io
import linecache
import tokenize

from gradlint.source import overlay
from gradlint.source.text import NOTEBOOK, SourceText, Unreadable


def source_text(path: str, data: bytes) -> SourceText:
    """Return the text of a file: of a notebook, that of its code cells.

    Raises:
        Unreadable: the bytes are no text.
    """
    if path.endswith(NOTEBOOK):
        from gradlint.source.notebook import NotebookText  # not needed otherwise

        return NotebookText(path, data)
    return SourceText(path, data)


def source_lines(path: str) -> tuple[str, ...]:
    """Return the lines of a source file, decoded as Python would; empty if it cannot be read."""
    if not overlay.exists(path):  # the cell of a notebook that runs has lines and no file
        known = linecache.cache.get(path, ())
        return tuple(line.rstrip("\n") for line in known[2]) if len(known) == 4 else ()
    try:
        data = overlay.read(path)
        if path.endswith(NOTEBOOK):
            return tuple(source_text(path, data).text.split("\n"))
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        except (SyntaxError, UnicodeError):
            encoding = "utf-8"
        text = data.decode(encoding, errors="replace")
    except (OSError, ValueError, LookupError, Unreadable):
        return ()
    # Not str.splitlines: Python's line numbers count neither form feeds nor Unicode line separators.
    return tuple(text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n"))


def written_lines(path: str) -> tuple[str, ...]:
    """Return the lines of a file as it is written: of a notebook, those of its JSON."""
    if not path.endswith(NOTEBOOK):
        return source_lines(path)
    try:
        return tuple(overlay.read(path).decode("utf-8-sig", "replace").split("\n"))
    except OSError:
        return ()


def digest_of(text: str) -> str:
    """Return a short digest of a text."""
    return hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
