"""Questions that a recording leaves open, and the evidence from further runs of the setup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from gradlint.traces.ids import OpIndex, ParameterIndex
from gradlint.traces.trace import GradientSizes


@dataclass(frozen=True)
class AddedNumber:
    """The question whether a Python number in the loss comes from a tensor that depends on parameters."""

    op: OpIndex
    """Index of the op that adds it."""
    exits: tuple[tuple[OpIndex, frozenset[ParameterIndex]], ...]
    """(op by which a number left torch, indices of the parameters that it depends on), the most likely one first."""
    parameters: frozenset[ParameterIndex]
    """Indices of all parameters that any number taken out before depends on."""


@dataclass(frozen=True)
class Questions:
    """The questions that only further runs of the setup answer."""

    groups: tuple[tuple[ParameterIndex, ...], ...] = ()
    """Groups of parameters (indices) whose values left torch by the same ops. Does the loss move with the group?"""
    parameters: tuple[ParameterIndex, ...] = ()
    """Parameters (indices) without gradient for no known reason. Does the loss move with each?"""
    numbers: tuple[AddedNumber, ...] = ()


@dataclass(frozen=True)
class LossEffect:
    """The effect on the loss of changing parameters."""

    outcome: Literal["reaches", "steers", "no_evidence", "unknown"]
    """``no_evidence`` is no proof of absence: no change that was tried moved the loss. ``steers``: only those moved it
    that made other code run."""
    reason: str = ""
    """Reason for ``unknown``."""
    is_of_group: bool = False
    """True if several parameters were changed together: the bound on runs left no room to part them."""


NOT_ASKED = LossEffect("unknown", "the training is not run again to see whether the loss depends on them")


@dataclass(frozen=True)
class Evidence:
    """The answers that further runs gave."""

    groups: Mapping[tuple[ParameterIndex, ...], LossEffect] = field(default_factory=dict)
    """Group of `Questions.groups` → effect."""
    parameters: Mapping[ParameterIndex, LossEffect] = field(default_factory=dict)
    """Index of a parameter → effect."""
    numbers: Mapping[OpIndex, OpIndex] = field(default_factory=dict)
    """Op that adds a number → op by which that number left torch. Numbers that were not taken out are absent."""
    gradients: GradientSizes | None = None
    """Gradients measured in a few steps of training; None if they were not measured."""

    def of_group(self, group: tuple[ParameterIndex, ...]) -> LossEffect:
        """Return the effect of changing a group of parameters."""
        return self.groups.get(group, NOT_ASKED)

    def of_parameter(self, index: ParameterIndex) -> LossEffect:
        """Return the effect of changing one parameter."""
        return self.parameters.get(index, NOT_ASKED)
