"""Loads of states that have no effect on the model that trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.flow.slots import Slots
from gradlint.traces.events import Event, ParameterWrite, StateLoaded
from gradlint.traces.ids import OpIndex, ParameterKey, ValueId
from gradlint.traces.op_families import ALLOCATIONS, VALUE_FREE
from gradlint.traces.ops import KIND_WRITE
from gradlint.traces.trace import Parameter, Trace

_FILLS = frozenset(name for name in VALUE_FREE if name.endswith("_")) | {"fill_", "data"}
"""Writes that initialise a parameter, if they read no other tensor."""
_FROM_FOREIGN_MEMORY = frozenset("asarray frombuffer from_numpy".split())
"""Makers of tensors of memory that is not torch's, as readers of files use."""
_ALIASES = frozenset("data detach alias requires_grad_".split())
"""Functions whose result is the tensor itself."""


@dataclass(frozen=True)
class LostLoad:
    """A load whose values are gone from the model before training starts."""

    load: StateLoaded
    parameters: tuple[Parameter, ...]
    """The parameters that have initial values in their place."""
    lost_by: Event
    """The event that lost the last of them."""
    is_replaced: bool
    """True if parameters were replaced; False if initial values were written over the loaded ones."""


def is_initialised_only(parameter: Parameter) -> bool:
    """Return True if a parameter of this run has had the values of an initialiser only."""
    if parameter.created_by is None or not parameter.created_by.is_new:
        return False
    if parameter.copied_from or parameter.computed:
        return False
    writes = [e for e in parameter.writes if not e.converts]  # to(device) writes to loaded values too
    return bool(writes) and all(map(is_fill, writes))


def is_fill(event: ParameterWrite) -> bool:
    """Return True if a write gave a parameter initial values: random ones or a constant."""
    reads = bool(event.sources) and event.op_name not in VALUE_FREE  # one row is filled through a view
    return event.op_name in _FILLS and not reads and event.loading < 0


def is_whole(trace: Trace, write: ParameterWrite, shape: tuple[int, ...]) -> bool:
    """Return True if a write covers a whole parameter, not a row of it, as that of the padding."""
    return any(trace.values[output].shape == shape for output in trace.ops[write.op].outputs)


def is_read_from_file(trace: Trace, value: ValueId) -> bool:
    """Return True if a value is made from memory that was filled from a file, outside torch."""
    op = trace.made_by(value)
    while op is not None and op.inputs and op.kind != KIND_WRITE and value not in trace.owners:
        value = op.inputs[0]
        op = trace.made_by(value)
    if op is None or op.inputs or value in trace.owners:  # the last is memory of a parameter, as the write's own target
        return False
    frame = trace.sites.innermost(op.site)
    is_users = frame is not None and frame.project  # a table that user code computed by numpy
    return op.name in ALLOCATIONS or (op.name in _FROM_FOREIGN_MEMORY and not is_users)


def ignored_loads(trace: Trace) -> Iterator[tuple[StateLoaded, list[Parameter]]]:
    """Yield the loads that took nothing of their state.

    With each go the parameters that the state has values for. Left out are loads that another one makes up for, and
    those of a loop in which other rounds load something.
    """
    loads = list(trace.events_of(StateLoaded))
    effective = {load.site for load in loads if load.ignored is None and not load.own}
    for load in loads:
        if load.ignored is None or load.site in effective:
            continue
        if _is_filled_later(trace, load, load.ignored.meant):
            continue
        meant = [p for p in trace.with_keys(load.ignored.meant) if p.in_tree]
        if found := [p for p in meant if not any(e.loading >= 0 for e in p.writes)]:
            yield load, [p for p in found if is_initialised_only(p)] or found


def own_loads(trace: Trace) -> Iterator[tuple[StateLoaded, list[Parameter]]]:
    """Yield the loads before training that copied a module's own values onto themselves."""
    loads = list(trace.events_of(StateLoaded))
    effective = {load.site for load in loads if load.ignored is None and not load.own}
    for load in loads:
        if not load.own or load.op > trace.forward_start or load.site in effective:
            continue
        parameters = [p for p in trace.with_keys(load.own) if p.in_tree]
        if parameters and not _is_filled_later(trace, load, load.own):
            yield load, parameters


def _is_filled_later(trace: Trace, load: StateLoaded, keys: frozenset[ParameterKey]) -> bool:
    """Return True if something else makes up for a load.

    That is a later load of any part of the module, or another write from elsewhere to one of some parameters before
    training.
    """
    below = {p.key for p in trace.below(trace.modules[load.module])}
    later = (e for e in trace.events_of(ParameterWrite) if e.number > load.number and not e.converts)
    return any(
        (e.parameter in below)
        if e.loading >= 0
        else (e.parameter in keys and bool(e.sources) and e.op <= trace.forward_start)
        for e in later
    )


def lost_loads(trace: Trace) -> Iterator[LostLoad]:
    """Yield the loads before training of which no weight is left when it starts.

    Each has initial values instead, and nothing read the loaded ones. Weights are parameters of two or more dimensions,
    or all if none is one.
    """
    loads = [load for load in trace.events_of(StateLoaded) if load.op <= trace.forward_start]
    slots = Slots(trace) if loads else None
    for load in loads:
        assert slots is not None
        written = _written_by(trace, load)
        weights = {key for key, (_, shape) in written.items() if len(shape) > 1} or written.keys()
        losses = [_loss(trace, slots, load, key, written[key][1]) for key in weights]
        found = [loss for loss in losses if loss is not None]
        if not found or len(found) < len(losses):
            continue
        last, _ = max(found, key=lambda loss: loss[0].number)
        is_used = _is_read(trace, {value for value, _ in written.values()}, load.op, last.op)
        if not is_used and not _runs_between(trace, load, last.op):
            parameters = sorted({p.index: p for _, p in found}.values(), key=lambda p: p.index)
            yield LostLoad(load, tuple(parameters), last, not isinstance(last, ParameterWrite))


def _written_by(trace: Trace, load: StateLoaded) -> dict[ParameterKey, tuple[ValueId, tuple[int, ...]]]:
    """Return the parameters that a load wrote: key → (their value after it, their shape)."""
    written = {}
    for event in trace.events[load.first : load.number]:
        if isinstance(event, ParameterWrite) and event.loading >= 0:
            value = trace.ops[event.op].outputs[0]
            written[event.parameter] = value, trace.values[value].shape
    return written


def _loss(
    trace: Trace, slots: Slots, load: StateLoaded, key: ParameterKey, shape: tuple[int, ...]
) -> tuple[Event, Parameter] | None:
    """Return the event that lost the value of a loaded parameter; None if none did.

    With it goes the parameter that is now in its place.
    """
    parameter = trace.by_key.get(key)
    if parameter is not None:
        before = [e for e in parameter.writes if e.number > load.number and e.op <= trace.forward_start]
        writes = [e for e in before if not e.converts]
        if writes and all(is_fill(e) and is_whole(trace, e, shape) for e in writes):
            return writes[-1], parameter
        return None
    for registration in slots.registrations.get(key, ()):
        slot = slots.of(registration)
        if slot is None or slot.replaced_by is None or slot.replaced_by.number < load.number:
            continue
        now = trace.by_fqn.get(slot.fqn)
        if now is not None and now.shape == shape and is_initialised_only(now):
            return slot.replaced_by, now
    return None


def _is_read(trace: Trace, values: set[ValueId], start: OpIndex, end: OpIndex) -> bool:
    """Return True if an op between two others uses any of some values."""
    seen = set(values)
    for op in trace.ops[start:end]:
        if seen.isdisjoint(op.inputs) or op.name in _FILLS - _ALIASES or op.name in VALUE_FREE:
            continue
        if op.name not in _ALIASES:
            return True
        seen.update(op.outputs)
    return False


def _runs_between(trace: Trace, load: StateLoaded, end: OpIndex) -> bool:
    """Return True if any module ran between a load and an op."""
    return any(load.op <= call.start < end for call in trace.calls)
