"""The working record of training steps, which the ledger fills while the training runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
from gradlint.traces.training import (
    FIRST_EVENT,
    FIRST_OP,
    Backward,
    Clear,
    Clip,
    Content,
    KeptGraph,
    Schedule,
    Spoiling,
    Step,
    Training,
)


@dataclass
class OpenBackward:
    """A backward pass whose gradient may still be accumulated, read and applied: see `Backward`."""

    number: BackwardIndex
    event: EventIndex
    op: OpIndex
    site: SiteId
    roots: tuple[ValueId, ...]
    retains: bool
    trainable: frozenset[ParameterKey]
    scaled: bool = False
    deposits: dict[ParameterKey, tuple[BackwardIndex, ...]] = field(default_factory=dict)
    zero: frozenset[ParameterKey] = frozenset()
    spoilt: dict[ParameterKey, Spoiling] = field(default_factory=dict)
    applied_by: set[StepIndex] = field(default_factory=set)
    recounted: frozenset[ModuleIndex] = frozenset()
    read: bool = False
    climbed: frozenset[ParameterKey] = frozenset()

    def finished(self) -> Backward:
        """Return the backward pass as it is by now."""
        return Backward(
            number=self.number,
            event=self.event,
            op=self.op,
            site=self.site,
            roots=self.roots,
            retains=self.retains,
            trainable=self.trainable,
            scaled=self.scaled,
            deposits=dict(self.deposits),
            zero=self.zero,
            spoilt=dict(self.spoilt),
            applied_by=frozenset(self.applied_by),
            recounted=self.recounted,
            read=self.read,
            climbed=self.climbed,
        )


@dataclass
class OpenStep:
    """An optimizer step that has not returned: see `Step`."""

    event: EventIndex
    op: OpIndex
    site: SiteId
    optimizers: tuple[OptimizerKey, ...]
    content: dict[ParameterKey, Content] = field(default_factory=dict)

    def finished(self, number: StepIndex, starts_state_of: frozenset[OptimizerKey]) -> Step:
        """Return the step, which has returned."""
        return Step(
            number, self.event, self.op, self.site, self.optimizers, dict(self.content), starts_state_of=starts_state_of
        )


@dataclass
class TrainingLog:
    """The steps recorded so far: see `Training`."""

    backwards: list[OpenBackward] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    clears: list[Clear] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    attempts: list[tuple[EventIndex, OptimizerKey]] = field(default_factory=list)
    kept_graphs: tuple[KeptGraph, ...] = ()
    start: OpIndex = FIRST_OP
    first_event: EventIndex = FIRST_EVENT
    schedulers: dict[OptimizerKey, SiteId] = field(default_factory=dict)
    calls: int = 0
    gradients: dict[ValueId, ParameterKey] = field(default_factory=dict)
    gradient_hooks: dict[ParameterKey, tuple[Code, ...]] = field(default_factory=dict)
    dropped: set[tuple[Any, int]] = field(default_factory=set)
    """(custom autograd.Function, number of a tensor argument) whose backward gave None where gradient was due."""

    def count_steps(self, optimizer: OptimizerKey, keys: frozenset[ParameterKey]) -> int:
        """Return the number of steps of an optimizer, and of others with any of its parameters."""
        return sum(optimizer in step.optimizers or not keys.isdisjoint(step.content) for step in self.steps)

    def finished(self) -> Training:
        """Return the record of the steps."""
        return Training(
            backwards=tuple(backward.finished() for backward in self.backwards),
            steps=tuple(self.steps),
            clears=tuple(self.clears),
            clips=tuple(self.clips),
            schedules=tuple(self.schedules),
            attempts=tuple(self.attempts),
            kept_graphs=self.kept_graphs,
            start=self.start,
            first_event=self.first_event,
            schedulers=dict(self.schedulers),
            calls=self.calls,
            gradients=dict(self.gradients),
            gradient_hooks=dict(self.gradient_hooks),
        )
