"""Text from outside, made safe to show: it stays in its line, and neither moves, hides nor commands anything.

Names of files, modules, parameters and exceptions, and lines of source, may hold whatever their author likes: escape
sequences for terminals, ends of lines, controls of the writing direction, commands for the services that run checks.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_BREAKS = re.compile(r"[\t\r\n\v\f]+")
_COLOR = re.compile(r"(\x1b\[[0-9;]*m)")
"""The escape sequences that set colours: reports contain them, and some exceptions."""
_START = re.compile(r"^((?:\s|\x1b\[[0-9;]*m)*):(?=:)", re.MULTILINE)
"""GitHub takes a line that begins so, also after blanks, as a command."""
_INSIDE = re.compile(r"#(?=#(?:vso|teamcity)?\[)", re.IGNORECASE)
"""GitHub, Azure and TeamCity take this as a command wherever it is in a line."""
_HIDDEN = frozenset("Cc Cf Cs Zl Zp".split())
"""Categories of characters that control something, or that no encoding has."""
_UNKNOWN = frozenset("Co Cn".split())


def uncolored(text: str) -> str:
    """Return a text without the sequences that set colours, as torch has them in some messages."""
    return _COLOR.sub("", text)


def char(single: str) -> str:
    """Return a character as it can be shown: controls become escapes."""
    if " " <= single <= "~" or unicodedata.category(single) not in _HIDDEN | _UNKNOWN:
        return single
    return single.encode("ascii", "backslashreplace").decode() if ord(single) > 127 else f"\\x{ord(single):02x}"


def one_line(text: str) -> str:
    """Return a text as one safe line: tabs and line ends become spaces, other controls escapes."""
    text = _BREAKS.sub(" ", text)
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(char, text))
    return without_commands(text)


def sanitized(text: str, *, color: bool = False, kept: str = "\t") -> str:
    """Return a text of several lines with escapes for what is unsafe in it.

    Args:
        text: its lines end in a line feed, with or without a carriage return.
        color: whether the sequences that set colours may stay.
        kept: control characters that may stay.
    """
    unsafe = {ord(c): char(c) for c in set(text) - {"\n", *kept} if char(c) != c}
    if unsafe:
        parts = _COLOR.split(text) if color else [text]
        parts[::2] = [_translated(part, unsafe) for part in parts[::2]]
        text = "".join(parts)
    return without_commands(text)


def _translated(text: str, unsafe: dict[int, str]) -> str:
    if "\r\n" not in text:
        return text.translate(unsafe)
    return "\r\n".join(part.translate(unsafe) for part in text.split("\r\n"))


def without_commands(text: str) -> str:
    """Return a text in which the first character of each command to a service is an escape."""
    if "::" in text:
        text = _START.sub(r"\1\\x3a", text)
    return _INSIDE.sub(r"\\x23", text) if "##" in text else text


def json_text(value: Any, *, readable: bool = False, in_one_line: bool = False) -> str:
    """Return a value as indented JSON, whose strings are kept.

    It holds no command to a service.

    Args:
        value: plain dicts, lists, strings and numbers.
        readable: whether letters beyond ASCII stay as they are; what is unsafe becomes an escape of JSON anyway.
        in_one_line: whether it is one line without indentation.
    """
    import json  # most commands do not need it

    text = json.dumps(value, indent=None if in_one_line else 1, ensure_ascii=not readable)
    if readable:
        unsafe = [c for c in set(text) if c >= "\x7f" and unicodedata.category(c) in _HIDDEN]
        text = text.translate({ord(c): json.dumps(c)[1:-1] for c in unsafe})
    return text.replace("##", "#\\u0023") + "\n"
