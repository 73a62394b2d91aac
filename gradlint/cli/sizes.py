"""Amounts of memory, as options give them."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import click

from gradlint.system import process_tree

_SIZE = re.compile(r"(\d+\.?\d*)\s*([kmgt])(i?)b?", re.IGNORECASE)
"""A number, the letter of its unit, and the one that makes it a power of 1024."""


class Size(NamedTuple):
    """An amount of memory."""

    text: str
    """As the user wrote it."""
    bytes: int


class SizeType(click.ParamType):  # type: ignore[type-arg]
    """The type of options such as ``4GB``, ``1.5GiB`` or ``512M``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Size:
        """Return the amount that a text means; fail if it means none."""
        if isinstance(value, Size):
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None or not float(match[1]):
            self.fail(f"{value!r} is no size: write it as in 4GB, 1.5GiB or 512MB", param, ctx)
        if not process_tree.can_measure_memory():
            self.fail("this system does not say how much memory a process takes", param, ctx)
        power = "kmgt".index(match[2].lower()) + 1
        return Size(value.strip(), int(float(match[1]) * (1024 if match[3] else 1000) ** power))
