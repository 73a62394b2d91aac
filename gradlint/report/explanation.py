"""Explanations of single parameters, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradlint.location import Location


@dataclass(frozen=True)
class Step:
    """One fact about a parameter."""

    text: str
    location: Location | None = None
    important: bool = False
    """True if it decides the state of the parameter; its source is shown."""


@dataclass(frozen=True)
class Section:
    """Steps that belong together, in order."""

    title: str
    steps: Sequence[Step]


@dataclass(frozen=True)
class Explanation:
    """Why one parameter trains or does not."""

    parameter: str
    """Its fully qualified name."""
    state: str
    """Its outcome and the reason."""
    about: str
    """Its shape and its other names."""
    sections: Sequence[Section] = ()
    """Its history, its optimizer, its path to the loss."""
