"""Read from an optimizer whether it remembers earlier steps: momentum, averages, factors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.optim import Optimizer

from gradlint.recorder.calls.values import tensors_in

_COUNTER = "step"
"""Name under which torch's optimizers count the steps of a parameter."""


def is_empty(optimizer: Optimizer) -> bool:
    """Return True if an optimizer remembers no step, only what its constructor put there."""
    return all(_COUNTER in state and not state[_COUNTER] for state in _states(optimizer))


def is_kept(optimizer: Optimizer) -> bool:
    """Return True if an optimizer remembers more of its steps than their number."""
    return any(tensors_in([v for k, v in state.items() if k != _COUNTER]) for state in _states(optimizer))


def _states(optimizer: Optimizer) -> Iterator[Mapping[str, Any]]:
    states = getattr(optimizer, "state", None)
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping) and state:
            yield state
