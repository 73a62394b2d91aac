"""TOML files, whatever they hold."""

from __future__ import annotations

import sys
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def parsed(data: bytes) -> dict[str, Any]:
    """Return the content of a file.

    Raises:
        ValueError: it is no TOML, or nested too deeply to be read.
    """
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
