"""What the user code of one target may take."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.cli.sizes import Size

INTERRUPT_GRACE = 3.0
"""Seconds that interrupted user code gets to end by itself."""


@dataclass(frozen=True)
class Limits:
    """What the user code of one target may take."""

    seconds: float = 600.0
    option: str = ""
    """The option that set the seconds; empty for the default of a command without one."""
    memory: Size | None = None
    """The memory of its worker and of the processes that the worker starts; None for no limit."""
