"""Events of a recording besides torch calls: registrations, freezes, switches, steps."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TypeAlias

from gradlint.location import Code
from gradlint.traces.ids import (
    BackwardIndex,
    EventIndex,
    ModuleIndex,
    OpIndex,
    OptimizerKey,
    ParameterKey,
    SiteId,
    ValueId,
)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened and is no op."""

    number: EventIndex
    op: OpIndex
    """Number of ops recorded before it: the clock."""
    site: SiteId
    """The call chain that caused it (`Trace.sites`)."""
    region: EventIndex
    """Grad-mode region it happened in, as `Op.region`."""


# -- grad mode ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GradModeOff(Event):
    """Grad mode was switched off: the begin of a region."""

    how: str
    """Name of the switch: ``no_grad``, ``inference_mode``, ``set_grad_enabled`` or ``unknown``."""
    decorated: Code | None
    """Code of the function that carries the switch as a decorator."""
    library: Code | None
    """Code of the function of torch or a library that contains the switch."""


# -- parameters and modules -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequiresGradSet(Event):
    """The ``requires_grad`` flag of a parameter was set."""

    parameter: ParameterKey
    through: ModuleIndex
    """Module whose ``requires_grad_()`` set it; NO_MODULE for none."""


@dataclass(frozen=True, slots=True)
class Freeze(RequiresGradSet):
    """A parameter's ``requires_grad`` was set to False."""


@dataclass(frozen=True, slots=True)
class Unfreeze(RequiresGradSet):
    """A parameter's ``requires_grad`` was set to True."""


@dataclass(frozen=True, slots=True)
class Registration(Event):
    """A module was given a parameter or a child under a name."""

    module: ModuleIndex
    """Module that registers it."""
    name: str
    """Attribute name, without the module's own."""


@dataclass(frozen=True, slots=True)
class ParameterRegistration(Registration):
    """A parameter was registered in a module."""

    parameter: ParameterKey
    is_new: bool
    """True if the tensor was not followed before."""
    from_nothing: bool = False
    """True if it is made by a library's ``from_pretrained()`` that is given nothing to load."""


@dataclass(frozen=True, slots=True)
class ChildRegistration(Registration):
    """A module was registered in another."""

    child: ModuleIndex
    averaged: frozenset[ParameterKey] | None = None
    """Keys of the trainable parameters in the child if a DistributedDataParallel wraps it: it averages no others."""


@dataclass(frozen=True, slots=True)
class ParameterWrite(Event):
    """An op wrote to the memory of a parameter."""

    parameter: ParameterKey
    op_name: str
    """Name of the op, as `Op.name`."""
    sources: tuple[ValueId, ...]
    """Values that the op read, besides the parameter's own."""
    loading: ModuleIndex
    """Module whose ``load_state_dict`` it was part of; NO_MODULE for none."""
    converts: bool
    """True if it was part of a conversion of a module: ``to()``, ``cuda()``, ``half()``."""


ParameterEvent: TypeAlias = ParameterRegistration | Freeze | Unfreeze | ParameterWrite
"""Events in a parameter's history."""


@dataclass(frozen=True, slots=True)
class IgnoredState:
    """A state of which a module loaded nothing."""

    name: str
    """The first name in the state."""
    own_name: str
    """The name that the module has for it; if unknown, the first of its own names."""
    renaming: tuple[str, str] | None
    """(prefix to remove, prefix to add) that makes most of the names those of the module."""
    nested: str
    """The key of the state below which the module's names stand; empty for none."""
    meant: frozenset[ParameterKey]
    """The parameters that it has values for, once it is renamed.

    If that is unknown, the module's trainable parameters, or all if none is trainable.
    """


@dataclass(frozen=True, slots=True)
class StateLoaded(Event):
    """A module's ``load_state_dict`` returned."""

    module: ModuleIndex
    first: EventIndex
    """Number of the first event that happened inside."""
    ignored: IgnoredState | None
    """Set if the state has tensors, none of its names is the module's, and nothing was written."""
    own: frozenset[ParameterKey]
    """The module's parameters, if the state has only the module's own tensors; else empty."""


@dataclass(frozen=True, slots=True)
class ParametersExchanged(Event):
    """A conversion of a module put new parameters in the place of its own: ``to_empty()`` from the meta device."""

    module: ModuleIndex
    how: str
    """Name of the method that converts, as in ``to_empty``."""
    exchanged: tuple[tuple[ParameterKey, ParameterKey], ...]
    """(old, new) parameter of each name; an old one with several names may have several new ones."""


@dataclass(frozen=True, slots=True)
class ModeSwitch(Event):
    """``train()`` or ``eval()`` was called on a module."""

    module: ModuleIndex
    training: bool
    """The mode it was put in."""
    changed: frozenset[ModuleIndex]
    """It and the modules in it that were in the other mode."""


# -- declarations ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Marked(Event):
    """User code marked values by ``gradlint.constant`` or ``gradlint.differentiable``."""

    values: tuple[ValueId, ...]
    constant: bool
    """True if no gradient is to pass through them, False if gradient is to."""


# -- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OptimizerMade(Event):
    """An optimizer's constructor was called."""

    optimizer: OptimizerKey
    type_name: str


@dataclass(frozen=True, slots=True)
class GroupAdded(Event):
    """An optimizer was given a parameter group, by its constructor or ``add_param_group``."""

    optimizer: OptimizerKey
    index: int
    """Position of the group in the optimizer."""
    exhausted: bool
    """True if the iterator of its parameters had been used up before."""


@dataclass(frozen=True, slots=True)
class BackwardCalled(Event):
    """A backward pass was started."""

    backward: BackwardIndex | None
    """None outside of recorded steps."""


@dataclass(frozen=True, slots=True)
class StepCalled(Event):
    """An optimizer's ``step()`` was called."""

    optimizer: OptimizerKey


@dataclass(frozen=True, slots=True)
class ZeroGradCalled(Event):
    """``zero_grad()`` of an optimizer or a module was called in recorded steps."""

    parameters: tuple[ParameterKey, ...]
    """Parameters whose gradient it cleared."""


@dataclass(frozen=True, slots=True)
class SchedulerStepCalled(Event):
    """User code called a learning-rate scheduler's ``step()``."""

    optimizer: OptimizerKey
    """Optimizer that the scheduler changes."""


@dataclass(frozen=True, slots=True)
class ScalerStepCalled(Event):
    """``GradScaler.step()`` was called."""

    optimizer: OptimizerKey


class Phase(enum.Enum):
    """A part of the recording that gradlint itself begins."""

    FORWARD = "forward"
    LOSS = "loss"
    STEPS = "steps"
    DONE = "done"
    """After the loss, or after the steps."""


@dataclass(frozen=True, slots=True)
class PhaseBegun(Event):
    """Gradlint began a part of the recording."""

    phase: Phase
