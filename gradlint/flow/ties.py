"""Tied parameters that come apart before training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.flow.slots import Slot, Slots
from gradlint.traces.events import ParameterRegistration, ParametersExchanged, Registration, StateLoaded
from gradlint.traces.ids import ParameterKey
from gradlint.traces.trace import Parameter, Trace


@dataclass(frozen=True)
class PartedTie:
    """Two names of one tensor that have a tensor each when training starts."""

    parameters: tuple[Parameter, Parameter]
    """The parameters that the names have now."""
    tied_at: ParameterRegistration
    """The registration that gave the tensor the second name."""
    parted_by: Registration | ParametersExchanged | None
    """The event that gave one of the names another tensor; None if it was not seen."""
    new: Parameter
    """The parameter that took the place of the tied one; any of the two if both did, or if that is unknown."""
    loaded: bool
    """True if a ``load_state_dict`` that assigns parted them."""


def parted_ties(trace: Trace) -> Iterator[PartedTie]:
    """Yield the ties that are lost when training starts, by the registrations of parameters."""
    slots = Slots(trace)
    loads = list(trace.events_of(StateLoaded))
    exchanges: dict[ParameterKey, ParametersExchanged] = {}
    for event in trace.events_of(ParametersExchanged):
        for old, _ in event.exchanged:
            exchanges.setdefault(old, event)
    for key, registrations in slots.registrations.items():
        places: dict[str, tuple[ParameterRegistration, Slot]] = {}
        for registration in registrations:
            slot = slots.of(registration)
            if slot is not None:
                places[slot.fqn] = registration, slot
        if len(places) < 2:
            continue
        (_, one), (second, other), *_ = sorted(places.values(), key=lambda place: place[0].number)
        if one.replaced_by is not None and one.replaced_by.number < second.number:
            continue  # moved from one name to the other
        first, last = trace.by_fqn.get(one.fqn), trace.by_fqn.get(other.fqn)
        if first is None or last is None or first is last:
            continue
        replaced = [(e, p) for e, p in ((one.replaced_by, first), (other.replaced_by, last)) if e is not None]
        parted: Registration | ParametersExchanged | None = exchanges.get(key)
        new = last
        if replaced:
            parted, new = min(replaced, key=lambda pair: pair[0].number)
        if parted is None or parted.op <= trace.forward_start:
            loaded = parted is not None and any(e.first <= parted.number < e.number for e in loads)
            yield PartedTie((first, last), second, parted, new, loaded)
