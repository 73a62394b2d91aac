"""The record of training steps: backward passes, optimizer steps, clears, clips and schedules, as plain data.

Parameters are named by their keys (`Parameter.key`), backward passes and steps by their position in `Training`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from gradlint.location import Code
from gradlint.traces.ids import (
    BackwardIndex,
    EventIndex,
    ModuleIndex,
    OpIndex,
    OptimizerKey,
    ParameterKey,
    SiteId,
    StepIndex,
    ValueId,
)

FIRST_OP = OpIndex(0)
FIRST_EVENT = EventIndex(0)


@dataclass(frozen=True)
class Spoiling:
    """A torch call that receives a finite gradient and passes on NaN or infinity."""

    name: str
    """Plain name of the function; empty if the call is unknown."""
    site: SiteId
    """Its site; that of the backward pass if the call is unknown."""


@dataclass(frozen=True)
class Backward:
    """One backward pass."""

    number: BackwardIndex
    event: EventIndex
    """Number of its event, for the order of events."""
    op: OpIndex
    """Number of ops recorded before it."""
    site: SiteId
    """Site of the call."""
    roots: tuple[ValueId, ...]
    """The values it started from; empty if none was seen."""
    retains: bool
    """True if the graph was retained on purpose (``retain_graph``, ``create_graph``)."""
    scaled: bool = False
    """True if it started from a loss that a gradient scaler had scaled."""
    trainable: frozenset[ParameterKey] = frozenset()
    """Keys of the parameters that required grad when it began."""
    deposits: Mapping[ParameterKey, tuple[BackwardIndex, ...]] = field(default_factory=dict)
    """Parameter that got gradient → earlier backward passes whose gradient was not yet cleared."""
    zero: frozenset[ParameterKey] = frozenset()
    """Those that got zeros alone, because every way to them passes an operation whose gradient is zero everywhere."""
    spoilt: Mapping[ParameterKey, Spoiling] = field(default_factory=dict)
    """Parameter whose gradient became NaN or infinite although the loss is finite → the call that made it so."""
    applied_by: frozenset[StepIndex] = frozenset()
    """The steps that applied gradient of it."""
    recounted: frozenset[ModuleIndex] = frozenset()
    """Batch norms that counted a batch while it ran: a checkpoint ran their forward again."""
    read: bool = False
    """True if user code read its gradient before a step applied it.

    The gradient of a tensor outside all optimizers counts too (an attacked input). Clipping and clearing do not count.
    """
    climbed: frozenset[ParameterKey] = frozenset()
    """Parameters that an optimizer's step had moved along their gradient before it ran its closure, which runs this."""


class Content(NamedTuple):
    """One parameter at one step of its optimizer."""

    backwards: tuple[BackwardIndex, ...]
    """The backward passes whose gradients it sums; empty without gradient or if unknown."""
    stale: tuple[BackwardIndex, ...]
    """Backward passes among them that an earlier step had already applied."""
    grad: bool
    """True if it had a gradient."""
    trainable: bool
    """True if it required grad."""
    lr: float | None
    moved: bool | None
    """True if its value changed; None if it was not compared."""
    nonzero: bool
    """True if any entry of its gradient was not zero."""
    spoilt: bool = False
    """True if a gradient that is not finite has made its value NaN or infinite."""
    at_zero: bool = False
    """True if its value was zero everywhere, and so was its gradient."""
    moves_masked: bool = False
    """True if entries moved whose gradient user code had set to zero, and others had a gradient."""
    lifts_mask: bool = False
    """True if an entry had a gradient that user code had set to zero at an earlier step."""
    masked_by_hook: bool = False
    """True if a hook of user code set the masked entries to zero."""
    masked_by_place: bool = False
    """True if the masked entries moved, and no threshold on the gradient can have chosen them."""
    updates: int = 0
    """Number of its entries with a gradient other than zero; not counted (0) for precise data types."""
    lost_updates: int = 0
    """Number of those entries that the step left as they were."""


@dataclass(frozen=True)
class Step:
    """One step of an optimizer."""

    number: StepIndex
    event: EventIndex
    op: OpIndex
    site: SiteId
    optimizers: tuple[OptimizerKey, ...]
    """The optimizers that took part: a wrapper and the optimizer in it."""
    content: Mapping[ParameterKey, Content] = field(default_factory=dict)
    """Key of a parameter in the optimizers → its state at this step."""
    starts_state_of: frozenset[OptimizerKey] = frozenset()
    """The optimizers whose state (momentum, averages) was empty before this step and is not after it."""


@dataclass(frozen=True)
class Clear:
    """A clear of gradient that no step had applied."""

    event: EventIndex
    """The ``zero_grad()`` event; NO_EVENT where it was done by hand."""
    site: SiteId
    """Site of the call; NO_SITE if it was done by hand."""
    discarded: Mapping[ParameterKey, tuple[BackwardIndex, ...]]
    """Parameter → the backward passes whose gradient was lost."""


@dataclass(frozen=True)
class Clip:
    """One call of ``clip_grad_norm_`` or ``clip_grad_value_``."""

    event: EventIndex
    site: SiteId
    exhausted: bool
    """True if the iterator passed to it was already exhausted."""
    measures: bool
    """True if its limit is infinite: the norm is only read."""
    fresh: tuple[ParameterKey, ...]
    """Clipped parameters with gradient that no step had applied."""
    applied: tuple[ParameterKey, ...]
    """Parameters whose whole gradient a step had already applied."""
    scaled: tuple[ParameterKey, ...]
    """Parameters whose gradient was still multiplied by a gradient scaler."""


@dataclass(frozen=True)
class Schedule:
    """One call of a scheduler's ``step`` by the user's code."""

    event: EventIndex
    site: SiteId
    optimizer: OptimizerKey
    """The optimizer it schedules."""
    made_at: SiteId
    """Site where the scheduler was created; NO_SITE if unknown."""
    known_groups: int = 0
    """Number of groups that the scheduler knows: as many as it keeps base rates of, else all."""
    changed_groups: frozenset[int] = frozenset()
    """Positions of the groups whose learning rate it changed."""
    is_by_metric: bool = False
    """True if a metric decides about the rates, not the number of steps."""


@dataclass(frozen=True)
class KeptGraph:
    """Values whose graph outlives its step."""

    site: SiteId
    """Site where they were computed."""
    values: int
    """Number of tensors that are alive; 1 for one that keeps growing."""
    grows: bool
    """True if it is one tensor whose graph reaches back through the steps (a running sum)."""


@dataclass(frozen=True)
class Training:
    """The recorded steps of one training setup, in the order in which they happened."""

    backwards: tuple[Backward, ...] = ()
    steps: tuple[Step, ...] = ()
    clears: tuple[Clear, ...] = ()
    clips: tuple[Clip, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    attempts: tuple[tuple[EventIndex, OptimizerKey], ...] = ()
    """(event, optimizer) of every ``GradScaler.step``, which skips the step where a gradient is inf."""
    kept_graphs: tuple[KeptGraph, ...] = ()
    start: OpIndex = FIRST_OP
    """Number of the first op of the recorded steps."""
    first_event: EventIndex = FIRST_EVENT
    schedulers: Mapping[OptimizerKey, SiteId] = field(default_factory=dict)
    """Optimizer → site where a scheduler of it was made."""
    calls: int = 0
    """Number of calls of the setup's step."""
    gradients: Mapping[ValueId, ParameterKey] = field(default_factory=dict)
    """Value → the parameter whose gradient it was when user code read it."""
    gradient_hooks: Mapping[ParameterKey, tuple[Code, ...]] = field(default_factory=dict)
    """Parameter → the code of the hooks of user code that see its gradient, in order."""

    def passes_with(self, key: ParameterKey) -> list[Backward]:
        """Return the backward passes at which a parameter required grad or got gradient."""
        return [b for b in self.backwards if key in b.trainable or key in b.deposits]

    def may_train(self, key: ParameterKey) -> bool:
        """Return True if a parameter that requires grad in some passes only is to be judged by them.

        An optimizer that contains the parameter applied one of them.
        """
        passes = self.passes_with(key)
        if len(passes) == len(self.backwards):
            return True
        return any(key in self.steps[number].content for b in passes for number in b.applied_by)

    def steps_of(self, keys: frozenset[ParameterKey]) -> list[Step]:
        """Return the steps of the optimizers that contain any of some parameters."""
        return [s for s in self.steps if not keys.isdisjoint(s.content)]

    @property
    def reached(self) -> frozenset[ParameterKey]:
        """Keys of the parameters that got gradient from a backward pass or from user code that sets ``.grad``."""
        by_hand = {key for s in self.steps for key, c in s.content.items() if c.nonzero and not c.backwards}
        return frozenset(by_hand.union(*(b.deposits.keys() - b.zero for b in self.backwards)))

    @property
    def reached_zero(self) -> frozenset[ParameterKey]:
        """Keys of the parameters that got gradient only through operations whose gradient is zero everywhere."""
        zero: frozenset[ParameterKey] = frozenset()
        return zero.union(*(b.zero for b in self.backwards)) - self.reached

    @property
    def roots(self) -> tuple[ValueId, ...]:
        """The values that backward passes started from."""
        return tuple(dict.fromkeys(value for b in self.backwards for value in b.roots))
