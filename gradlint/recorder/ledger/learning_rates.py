"""Read the learning rates of an optimizer's groups, and other numbers there."""

from __future__ import annotations

from typing import Any


def learning_rates(optimizer: Any) -> list[float | None]:
    """Return the learning rate of each group of an optimizer."""
    return [as_number(group.get("lr")) for group in getattr(optimizer, "param_groups", ())]


def as_number(value: Any) -> float | None:
    """Return a number as a float; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None
