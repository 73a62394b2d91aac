"""The record of training steps: backward passes, optimizer steps, clears, clips and schedules, as plain data.

Parameters are named by their keys (`Parameter.key`), backward passes and steps by their position in `Training`.
Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass
class Backward:
    """One backward pass."""

    number: int
    """Position in `Training.backwards`."""
    event: int
    """Number of its event: the order of things."""
    op: int
    """Number of ops recorded before it."""
    site: int
    """Where it was called."""
    roots: tuple[int, ...]
    """The values it started from; empty where none was seen."""
    retains: bool
    """Whether the graph was kept on purpose (``retain_graph``, ``create_graph``)."""
    scaled: bool = False
    """Whether it started from what a gradient scaler had scaled."""
    deposits: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """Parameter it gave gradient to → the earlier backward passes whose gradient was still there."""
    applied_by: set[int] = field(default_factory=set)
    """Numbers of the steps that applied gradient of it."""
    read: bool = False
    """Whether, before a step applied it, anybody looked at gradient that it had given, or at that of a tensor which no
    optimizer holds: an attacked input. Clipping and clearing do not count."""


class Content(NamedTuple):
    """What an optimizer found in one parameter at one step."""

    backwards: tuple[int, ...]
    """The backward passes that its gradient is the sum of; empty where it has none or it is not known."""
    stale: tuple[int, ...]
    """Those of them that an earlier step had applied before others were added."""
    grad: bool
    """Whether it had a gradient at all."""
    trainable: bool
    """Whether it required grad."""
    lr: float | None
    moved: bool | None
    """Whether its value changed; None where that was not looked at."""
    nonzero: bool
    """Whether its gradient was other than zero somewhere."""


@dataclass
class Step:
    """One step of an optimizer."""

    number: int
    """Position in `Training.steps`."""
    event: int
    op: int
    site: int
    optimizers: tuple[int, ...]
    """Identities of the optimizers that took part: a wrapper and what it wraps."""
    content: dict[int, Content] = field(default_factory=dict)
    """By parameter that the optimizers hold."""


@dataclass(frozen=True)
class Clear:
    """Gradient was cleared that no step had applied."""

    event: int
    """Number of the ``clear`` event; -1 where it was done by hand."""
    site: int
    """Where; NO_SITE where it was done by hand."""
    discarded: dict[int, tuple[int, ...]]
    """Parameter → the backward passes whose gradient was lost."""


@dataclass(frozen=True)
class Clip:
    """One call of ``clip_grad_norm_`` or ``clip_grad_value_``."""

    event: int
    site: int
    exhausted: bool
    """Whether the iterator it was given had been used up before."""
    measures: bool
    """Whether its limit is infinite: the norm is only read."""
    fresh: tuple[int, ...]
    """The parameters it clipped that held gradient which no step had applied."""
    applied: tuple[int, ...]
    """Those whose whole gradient a step had applied already."""
    scaled: tuple[int, ...]
    """Those whose gradient was still multiplied by a gradient scaler's factor."""


@dataclass(frozen=True)
class Schedule:
    """One call of a scheduler's ``step`` by the user's code."""

    event: int
    site: int
    optimizer: int
    """Identity of the optimizer it schedules."""
    made_at: int
    """Where the scheduler was made; NO_SITE where that was not seen."""


@dataclass(frozen=True)
class Kept:
    """Values whose graph outlives its step."""

    site: int
    """Where they were computed."""
    values: int
    """How many such tensors are alive; 1 for one that keeps growing."""
    grows: bool
    """Whether it is one tensor whose graph reaches back through the steps (a running sum)."""


@dataclass
class Training:
    """The recorded steps of one set-up, in the order in which they happened."""

    backwards: list[Backward] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    clears: list[Clear] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    attempts: list[tuple[int, int]] = field(default_factory=list)
    """(event, identity of the optimizer) of every ``GradScaler.step``, which skips the step where a gradient is inf."""
    kept: list[Kept] = field(default_factory=list)
    start: int = 0
    """Number of the first op of the recorded steps."""
    first_event: int = 0
    toggled: frozenset[int] = frozenset()
    """Keys of the parameters whose requires_grad changed between the steps' begin and end, or within."""
    schedulers: dict[int, int] = field(default_factory=dict)
    """Identity of an optimizer → site where a scheduler of it was made."""
    calls: int = 0
    """How often the set-up's step was called."""

    def steps_of(self, keys: frozenset[int]) -> list[Step]:
        """The steps of the optimizers that hold any of some parameters."""
        return [s for s in self.steps if not keys.isdisjoint(s.content)]

    @property
    def reached(self) -> frozenset[int]:
        """Keys of the parameters that any backward pass gave gradient to, or user code that sets ``.grad`` itself."""
        by_hand = {key for s in self.steps for key, c in s.content.items() if c.nonzero and not c.backwards}
        return frozenset(by_hand.union(key for b in self.backwards for key in b.deposits))

    @property
    def roots(self) -> tuple[int, ...]:
        """The values that backward passes started from."""
        return tuple(dict.fromkeys(value for b in self.backwards for value in b.roots))
