"""The record of building and running a training setup: plain data for flow, rules and reports.

Tensors are named by *value numbers*: each result of an op gets a new one, and so does a tensor that an in-place op
wrote to. What a value was (its producer, whether it required grad, shape, dtype) stands in `Trace.values`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from gradlint.location import Code, Location
from gradlint.system.shown import Shown
from gradlint.traces.events import (
    Event,
    Freeze,
    GradModeOff,
    ParameterEvent,
    ParameterRegistration,
    ParameterWrite,
    StateLoaded,
    Unfreeze,
)
from gradlint.traces.ids import (
    NO_EVENT,
    NO_SITE,
    CallIndex,
    EventIndex,
    ModuleIndex,
    OpIndex,
    OptimizerIndex,
    OptimizerKey,
    ParameterIndex,
    ParameterKey,
    SiteId,
    ValueId,
)
from gradlint.traces.ops import ModuleCall, Op, Value
from gradlint.traces.sites import Frame, Sites

if TYPE_CHECKING:
    from gradlint.traces.training import Spoiling, Training

AnyEvent = TypeVar("AnyEvent", bound=Event)


@dataclass(frozen=True)
class Parameter:
    """One parameter tensor of the training setup."""

    fqn: str
    """The canonical name: the first in the model's order, wrapper prefixes stripped."""
    aliases: tuple[str, ...]
    """Every name, the canonical one first."""
    key: ParameterKey
    index: ParameterIndex
    requires_grad: bool
    """True if it required grad at any recorded backward pass; without one, at the start of the forward."""
    shape: tuple[int, ...]
    numel: int
    bytes: int
    groups: tuple[tuple[OptimizerIndex, int], ...]
    """(optimizer, position of the group) of every group that holds it."""
    module: ModuleIndex
    """Module that registers it."""
    project: bool
    """True if the class that registers it, or that of a module above it below the root, is the user's own."""
    in_tree: bool = True
    """True if the model holds it; False for a loss module's that was only seen running."""
    history: tuple[ParameterEvent, ...] = ()
    """Its registrations, freezes, unfreezes and writes, in order."""
    copied_from: frozenset[ParameterIndex] = frozenset()
    """Indices of parameters that its value was copied from before the forward (deepcopy, load_state_dict, copy_)."""
    made_from: frozenset[ParameterKey] = frozenset()
    """Keys of frozen parameters outside the model that its value was computed from before the forward."""
    frozen_from: frozenset[ParameterKey] = frozenset()
    """Keys of parameters, at most two, that required grad and that its value was computed from as it was created; empty
    unless it is frozen."""
    computed: bool = False
    """True if it was created with values computed from another parameter."""
    written: bool = False
    """True if the user's code wrote or replaced its value during the forward or the loss."""
    requires_grad_before: bool = False
    """At the start of the forward."""
    requires_grad_after: bool = False
    """At the end of the recording."""
    dtype: str = ""
    """Name of its data type, as in ``float32``."""
    device: str = ""
    """Name of its device, as in ``cuda:0``."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Boolean attributes that were set on the tensor itself."""
    has_hook: bool = False
    """True if a hook sees its gradient."""
    is_untouched: bool = False
    """True if at the start of the forward only recorded calls can have written to its memory."""
    is_allocated: bool = False
    """True if moreover it was made of memory that had just been allocated."""
    shares_memory_with: frozenset[ParameterIndex] = frozenset()
    """Indices of the other parameters whose memory overlaps its own."""
    spellings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Alias → the same with the attributes of wrappers, as ``named_parameters()`` gives it; only inside wrappers."""

    def spelled(self, alias: str) -> tuple[str, ...]:
        """Return an alias in each of its spellings."""
        return (alias, *self.spellings.get(alias, ()))

    @property
    def all_names(self) -> tuple[str, ...]:
        """Return every name that a user may call it by: its aliases, then their other spellings."""
        if not self.spellings:
            return self.aliases
        return (*self.aliases, *(name for names in self.spellings.values() for name in names))

    @property
    def frozen_throughout(self) -> bool:
        """Return True if it required grad at no recorded backward pass, nor at the end of the recording."""
        return not (self.requires_grad or self.requires_grad_after)

    @property
    def registrations(self) -> list[ParameterRegistration]:
        """Return the events that put it into a module, in order."""
        return [e for e in self.history if isinstance(e, ParameterRegistration)]

    @property
    def flag_changes(self) -> list[Freeze | Unfreeze]:
        """Return its freezes and unfreezes, in order."""
        return [e for e in self.history if isinstance(e, Freeze | Unfreeze)]

    @property
    def writes(self) -> list[ParameterWrite]:
        """Return the writes to its memory, in order."""
        return [e for e in self.history if isinstance(e, ParameterWrite)]

    @property
    def frozen_by(self) -> Freeze | None:
        """The event that froze it last; None where it was born frozen or is not frozen."""
        if self.requires_grad:
            return None
        return next((e for e in reversed(self.history) if isinstance(e, Freeze)), None)

    @property
    def created_by(self) -> ParameterRegistration | None:
        """The event that put it into a module first; None where that was before the recording."""
        return next((e for e in self.history if isinstance(e, ParameterRegistration)), None)

    @property
    def registered_by(self) -> ParameterRegistration | None:
        """The event that put it into the module it is in now; None where that was before the recording."""
        return next((e for e in reversed(self.history) if isinstance(e, ParameterRegistration)), None)


@dataclass(frozen=True)
class ModuleClass:
    """The class of a module."""

    name: str
    home: str
    """Dotted name of the Python module that defines it."""
    number: int
    """Number within the recording: two classes may have one name."""
    bases: tuple[str, ...] = ()
    """Names of the classes that it inherits from, itself first."""
    project: bool = False
    """True if it is defined in user code."""
    has_from_pretrained: bool = False
    """True if it has a class method ``from_pretrained``."""


@dataclass(frozen=True)
class Module:
    """One module of the training setup."""

    fqn: str
    """Canonical name; empty for a single root. Outside the tree: the class's name."""
    number: ModuleIndex
    parent: ModuleIndex
    """The module that holds it; NO_MODULE for a root or a module outside the tree."""
    type: ModuleClass
    training: bool
    """At the start of the forward."""
    in_tree: bool
    registered_at: SiteId
    """Site where it was put into its parent last; NO_SITE if that was not seen."""
    parameters: tuple[ParameterIndex, ...] = ()
    """Indices of the parameters registered by itself."""
    calls: int = 0
    """Number of its runs in the forward and the loss."""
    training_after: bool = False
    """At the end of the recording."""
    children: tuple[tuple[str, ModuleIndex], ...] = ()
    """(name, module) of the modules registered in it."""
    flags: Mapping[str, bool] = field(default_factory=dict)
    """Boolean attributes of the module itself that its class does not define."""
    is_active_dropout: bool = False
    """True if it drops parts of its input at random in train mode."""
    has_recurrent_dropout: bool = False
    """True if it is a recurrent layer with dropout between its layers."""
    running_stats: tuple[str, ...] = ()
    """Names of the running statistics that it has, as in ``running_mean``."""
    momentum: float | None = None
    """Momentum of its running statistics."""
    has_hook: bool = False
    """True if a hook sees the gradients of its inputs or outputs."""
    spellings: tuple[str, ...] = ()
    """Its name with the attributes of wrappers; empty outside of wrappers."""


@dataclass(frozen=True)
class Group:
    """One parameter group of an optimizer."""

    index: int
    lr: float | None
    site: SiteId
    """Site of the constructor or of ``add_param_group``."""
    event: EventIndex
    """The event that added it; NO_EVENT if unseen."""
    scheduled: bool
    """True if a learning-rate scheduler is attached."""
    keys: tuple[ParameterKey, ...]
    """Keys of the tensors it holds."""
    weight_decay: float | None = None
    peak_lr: float | None = None
    """The rate that a scheduler warms it up to, or the one that it began with."""


@dataclass(frozen=True)
class Arguments:
    """The call that made an optimizer, as far as it was seen."""

    site: SiteId = NO_SITE
    event: EventIndex = NO_EVENT
    chosen_at: tuple[Location, ...] = ()
    """Places where the parameters were put together: assignments of the names in the call, definitions of the user's
    functions called for them."""
    group_locations: tuple[Location, ...] = ()
    """The places of the groups, where they are written out one by one."""
    parameters_of: Location | None = None
    """The span of the argument where it is literally ``X.parameters()``."""


@dataclass(frozen=True)
class ForeignTensor:
    """A tensor that an optimizer holds and that is no parameter of the model."""

    key: ParameterKey
    shape: tuple[int, ...]
    numel: int
    dtype: str
    """Name of its data type, as in ``float32``."""
    requires_grad: bool
    is_read: bool
    """True if an op of the forward, the loss or the steps reads it, or may do so."""


class Copy(NamedTuple):
    """The deepcopy that a parameter was made by."""

    source: ParameterKey
    """The parameter that was copied."""
    site: SiteId


@dataclass(frozen=True)
class Optimizer:
    """One optimizer of the training setup."""

    name: str
    """The key in the setup's dict of optimizers; empty for a single one."""
    type: str
    number: OptimizerIndex
    key: OptimizerKey
    site: SiteId
    """Its constructor's call; NO_SITE if it was made before the recording."""
    event: EventIndex
    """The event of its making; NO_EVENT if unseen."""
    groups: tuple[Group, ...]
    arguments: Arguments = Arguments()
    """Facts from the source of the constructor's call; empty if it was created before the recording."""
    holds_parameters_only: bool = True
    """True if every tensor that it holds is an nn.Parameter."""
    foreign: tuple[ForeignTensor, ...] = ()
    """The tensors that it holds and that are no parameters of the model."""
    is_stepped_by_torch: bool = False
    """True if its `step` is one of torch's own."""

    @cached_property
    def keys(self) -> frozenset[ParameterKey]:
        """Keys of the tensors that its groups hold."""
        return frozenset(key for group in self.groups for key in group.keys)

    @cached_property
    def constructed(self) -> int:
        """The number of groups that its constructor's call made."""
        return sum(group.site == self.site for group in self.groups)


@dataclass(frozen=True)
class UnregisteredPlace:
    """The place of an unregistered module or tensor: an attribute of a module, or a variable that its code uses."""

    fqn: str
    """Name through the attribute: ``stack.0.1``."""
    holder: ModuleIndex
    """Number of the module in the tree that has the attribute, or whose code uses the variable."""
    attribute: str
    variable: bool = False
    """True if it is a variable of a closure or a global, instead of an attribute."""
    container: str = ""
    """Type name of the attribute's value, as in ``list``; empty for a variable."""


@dataclass(frozen=True)
class FlaggedTensor:
    """A tensor that is no parameter, and on which boolean attributes were set."""

    name: str
    """Dotted path to it, as in ``encoder.mask`` or ``inputs[0]``."""
    flags: Mapping[str, bool]
    requires_grad: bool


@dataclass(frozen=True)
class SetupFacts:
    """Facts about the training setup itself."""

    models: tuple[tuple[str, int], ...] = ()
    """(name, module number) of each model; the name is empty where a single one is given."""
    trains: tuple[str, ...] = ()
    """Patterns of parameters that the setup declares trained."""
    frozen: tuple[str, ...] = ()
    """Patterns of parameters that the setup declares frozen."""
    train: bool | None = None
    """The mode that the setup asks for."""
    has_inputs: bool = False
    """True if it gives the inputs of the forward."""
    has_loss: bool = False
    has_step: bool = False


@dataclass(frozen=True)
class UnregisteredTensor:
    """A tensor that requires grad and is neither registered nor in an optimizer."""

    place: UnregisteredPlace
    leaf: bool
    parameter: bool
    """True if it is, or was computed from, an nn.Parameter that is not registered."""
    reached: bool
    """True if the gradient of the loss reaches it, or the leaves that it was computed from."""
    differentiated: bool
    """True if user code differentiates by it (``autograd.grad``)."""
    site: SiteId
    """Site where it was computed; NO_SITE if unknown."""


@dataclass(frozen=True)
class Stop:
    """A torch call behind which a gradient is zero in every entry."""

    name: str
    """Plain name of the function."""
    site: SiteId
    single: bool
    """True if it is a softmax with one element to choose from, which gives 1 whatever it is given."""
    zeros: bool
    """True if both of its first operands are zero everywhere: each keeps the other there."""
    weighted: bool
    """True if it multiplies by zeros that do not train: a constant, a mask, a state, a frozen layer without weights."""
    order: int
    """Its place in the order of execution."""


@dataclass(frozen=True)
class Gradient:
    """One parameter's gradient in a few steps of training."""

    sizes: tuple[float | None, ...]
    """Its largest entry in each step; None without a gradient, or with one of zero from a loss that is not finite."""
    stop: Stop | None = None
    """The call in which it becomes zero, if it is zero in every step."""
    nonzero_with_other_signs: bool = False
    """True if one that was zero in every step is not so with other signs of the weights: bad luck in a narrow layer."""
    is_rounding: bool = False
    """True if it is small beside the others, and in double precision smaller by far: zero in exact arithmetic."""

    @property
    def zero(self) -> bool:
        """True if there was a gradient in every step, and it was exactly zero."""
        return bool(self.sizes) and all(size == 0.0 for size in self.sizes)


@dataclass(frozen=True)
class GradientSizes:
    """Measurements of a few steps of training."""

    steps: int = 0
    gradients: Mapping[ParameterIndex, Gradient] = field(default_factory=dict)
    """Of the parameters that gradient is known to reach."""
    spoilt: Mapping[ParameterIndex, Spoiling] = field(default_factory=dict)
    """Parameter whose gradient is not finite in the first step although the loss is → the call that makes it so."""
    loss_is_flat: bool = False
    """True if every gradient was zero and other parameter values give the same loss."""
    failure: str = ""
    """Why nothing was measured."""


@dataclass(frozen=True)
class Trace(Shown):
    """The record of one training setup. It prints as numbers."""

    target: str
    setup: SetupFacts
    sites: Sites
    ops: tuple[Op, ...]
    values: tuple[Value, ...]
    """By value number."""
    events: tuple[Event, ...]
    calls: tuple[ModuleCall, ...]
    modules: tuple[Module, ...]
    parameters: tuple[Parameter, ...]
    optimizers: tuple[Optimizer, ...]
    forward_start: OpIndex
    """Number of the first op of the forward."""
    loss_start: OpIndex
    """Number of the first op after the forward."""
    roots: tuple[ValueId, ...]
    """Values that the gradient is followed from: the loss, or every differentiable floating output."""
    loss_described: str
    loss_given: bool
    """True if the roots are one scalar loss rather than all outputs."""
    owners: Mapping[ValueId, ParameterIndex]
    """Value → the parameter whose content it is."""
    buffers: Mapping[ValueId, str]
    """Value → fqn of the buffer whose content it was at the start of the forward."""
    inputs: Mapping[ValueId, str]
    """Value → name of the model input."""
    buffers_moved: frozenset[str]
    """fqns of the buffers whose content changed in the forward."""
    inputs_described: str
    unrecorded: tuple[tuple[str, SiteId], ...] = ()
    """(what could not be recorded, site)."""
    reached: frozenset[ParameterIndex] = frozenset()
    """Indices of the parameters that gradient returns to: autograd's own word."""
    reached_zero: frozenset[ParameterIndex] = frozenset()
    """Indices of those that only operations with a gradient of zero everywhere lead back to."""
    dropped: frozenset[tuple[Any, int]] = frozenset()
    """(custom autograd.Function, number of a tensor argument) whose backward gave None for an input that needs
    gradient."""
    notes: tuple[str, ...] = ()
    """Descriptions of the assumptions made."""
    executed: tuple[Code, ...] = ()
    """The functions that ran while recording, by their code; the user's and others'."""
    grad_off_leaked: frozenset[EventIndex] = frozenset()
    """Numbers of the events that switched grad mode off for good: it was still off after build() or the forward."""
    unregistered_modules: Mapping[ModuleIndex, UnregisteredPlace] = field(default_factory=dict)
    """Module number → where the tree holds it without registering it."""
    unregistered_tensors: tuple[UnregisteredTensor, ...] = ()
    flagged: tuple[FlaggedTensor, ...] = ()
    copies: Mapping[ParameterKey, Copy] = field(default_factory=dict)
    """Parameter → the copy that made it; empty unless an optimizer holds foreign tensors."""
    recreated: frozenset[ParameterIndex] = frozenset()
    """Indices of the parameters that every forward creates anew."""
    on_probabilities: frozenset[OpIndex] = frozenset()
    """Indices of the calls of cross_entropy whose input holds probabilities: positive rows that differ and sum to 1."""
    uses_random_numbers: bool = False
    """True if the forward drew random numbers outside torch, which may decide which layers run."""
    training: Training | None = None
    """The recorded steps; None where there were none."""
    fault: tuple[str, str] | None = None
    """(error, traceback) of gradlint itself while it recorded: the rest of the record is missing."""

    @cached_property
    def by_fqn(self) -> dict[str, Parameter]:
        """Parameter by any of its names."""
        return {name: p for p in self.parameters for name in p.aliases}

    @cached_property
    def by_key(self) -> dict[ParameterKey, Parameter]:
        """Parameter by the identity of its tensor."""
        return {p.key: p for p in self.parameters}

    @cached_property
    def values_of(self) -> Mapping[ParameterIndex, Sequence[ValueId]]:
        """Parameter → the values that were its content, in order."""
        values: defaultdict[ParameterIndex, list[ValueId]] = defaultdict(list)
        for value, index in sorted(self.owners.items()):
            values[index].append(value)
        return values

    @cached_property
    def holders(self) -> Mapping[ParameterIndex, Sequence[Module]]:
        """Parameter → the modules that register it: several if it is tied."""
        holders: defaultdict[ParameterIndex, list[Module]] = defaultdict(list)
        for module in self.modules:
            for index in module.parameters:
                holders[index].append(module)
        return holders

    @cached_property
    def loading(self) -> Mapping[int, StateLoaded]:
        """Number of an event → the load of a state that it is part of."""
        loads = reversed(self.events_of(StateLoaded))
        return {number: load for load in loads for number in range(load.first, load.number)}

    @cached_property
    def _below(self) -> Mapping[str, list[Parameter]]:
        """Name of a module → the parameters whose names begin with it."""
        below: defaultdict[str, list[Parameter]] = defaultdict(list)
        for parameter in self.parameters:
            paths = (name.split(".")[:-1] for name in parameter.aliases)
            for prefix in {prefix for path in paths for prefix in itertools.accumulate(path, "{}.{}".format)}:
                below[prefix].append(parameter)
        return below

    @cached_property
    def trainable_prefixes(self) -> frozenset[str]:
        """Names of the modules with a trainable parameter, by the parameters' first names."""
        return prefixes_of(p.fqn for p in self.parameters if p.requires_grad)

    @cached_property
    def held_prefixes(self) -> tuple[frozenset[str], ...]:
        """Optimizer, by its number → the names of the parameters that it holds and of the modules around them."""
        held = ([p.fqn for key in o.keys if (p := self.by_key.get(key))] for o in self.optimizers)
        return tuple(prefixes_of(names) | {*names} for names in held)

    def below(self, module: Module) -> Sequence[Parameter]:
        """Return the parameters of a module and of the modules in it, under any of their names."""
        if module.in_tree and not module.fqn:
            return [p for p in self.parameters if p.in_tree]
        return self._below.get(module.fqn, ())

    def around(self, number: ModuleIndex) -> Iterator[Module]:
        """Yield a module, by its number, and the modules that contain it, innermost first.

        Yields nothing for -1.
        """
        while number >= 0:
            yield self.modules[number]
            number = self.modules[number].parent

    def calls_around(self, number: CallIndex) -> Iterator[CallIndex]:
        """Yield a module call, by its number, and the calls around it, innermost first.

        Yields nothing for -1.
        """
        while number >= 0:
            yield number
            number = self.calls[number].parent

    def with_outer_calls(self, calls: Iterable[CallIndex]) -> set[CallIndex]:
        """Return module calls, by their numbers, together with those around them; -1 is left out."""
        found: set[CallIndex] = set()
        for number in calls:
            found.update(itertools.takewhile(lambda around: around not in found, self.calls_around(number)))
        return found

    def modes_since(self, start: OpIndex) -> dict[ModuleIndex, set[bool]]:
        """Return module → the modes in which it ran since an op, True for train mode."""
        modes: dict[ModuleIndex, set[bool]] = {}
        for call in self.calls:
            if call.start >= start:
                modes.setdefault(call.module, set()).add(call.training)
        return modes

    def own(self, module: Module) -> list[Parameter]:
        """Return the parameters that a module registers itself."""
        return [self.parameters[i] for i in module.parameters]

    def with_keys(self, keys: Iterable[ParameterKey]) -> list[Parameter]:
        """Return the parameters with one of these keys, in the model's order."""
        found = {p.index for key in keys if (p := self.by_key.get(key)) is not None}
        return [self.parameters[index] for index in sorted(found)]

    def has_trainable_twin(self, parameter: Parameter) -> bool:
        """Return True if a parameter is a copy of a trainable one (momentum encoder, mean teacher)."""
        return any(self.parameters[i].requires_grad for i in parameter.copied_from)

    def made_by(self, value: ValueId) -> Op | None:
        """Return the op that computed a value; None for a value from before the recording."""
        producer = self.values[value].producer
        return self.ops[producer] if producer >= 0 else None

    def module_of(self, op: Op) -> Module | None:
        """Return the module whose forward an op ran in."""
        return self.modules[self.calls[op.call].module] if op.call >= 0 else None

    def frame(self, site: SiteId) -> Frame | None:
        """Return the frame to report for a site: the innermost in user code, else the innermost."""
        return self.sites.blamed(site) if site != NO_SITE else None

    def location(self, site: SiteId) -> Location | None:
        """Return the location to report for a site."""
        frame = self.frame(site)
        return frame.location if frame else None

    @cached_property
    def _by_kind(self) -> dict[type[Event], tuple[Event, ...]]:
        return {}

    def events_of(self, kind: type[AnyEvent]) -> tuple[AnyEvent, ...]:
        """Return the events of one kind, in order."""
        if kind not in self._by_kind:
            self._by_kind[kind] = tuple(e for e in self.events if isinstance(e, kind))
        return cast("tuple[AnyEvent, ...]", self._by_kind[kind])

    def region(self, number: EventIndex) -> GradModeOff:
        """Return the event that switched grad mode off, by its number (`Op.region`)."""
        event = self.events[number]
        assert isinstance(event, GradModeOff)
        return event


def prefixes_of(names: Iterable[str]) -> frozenset[str]:
    """Return every name of a module that one of some dotted names lies in."""
    found: set[str] = set()
    for name in names:
        end = name.rfind(".")
        while end > 0 and name[:end] not in found:
            found.add(name[:end])
            end = name.rfind(".", 0, end)
    return frozenset(found)
