"""Tied parameters that come apart before training. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.flow.slots import Slot, Slots
from gradlint.traces.events import Event, ParameterRegistration, ParametersExchanged
from gradlint.traces.ids import ParameterKey
from gradlint.traces.trace import Parameter, Trace


@dataclass(frozen=True)
class LostTie:
    """Two names of one tensor that have a tensor each when training starts."""

    parameters: tuple[Parameter, Parameter]
    """The parameters that the names have now."""
    tied_at: ParameterRegistration
    """The registration that gave the tensor the second name."""
    parted_by: Event | None
    """The event that gave one of the names another tensor; None if it was not seen."""


def lost_ties(trace: Trace) -> Iterator[LostTie]:
    """Yield the ties that are lost when training starts, by the registrations of parameters."""
    slots = Slots(trace)
    exchanges: dict[ParameterKey, ParametersExchanged] = {}
    for event in trace.events_of(ParametersExchanged):
        for old, _ in event.exchanged:
            exchanges.setdefault(old, event)
    for key, registrations in slots.registrations.items():
        if len(registrations) < 2:
            continue
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
        now = trace.by_fqn.get(one.fqn), trace.by_fqn.get(other.fqn)
        if now[0] is None or now[1] is None or now[0] is now[1]:
            continue
        replaced = [slot.replaced_by for slot in (one, other) if slot.replaced_by is not None]
        parted = min(replaced, key=lambda e: e.number) if replaced else exchanges.get(key)
        if parted is None or parted.op <= trace.forward_start:
            yield LostTie((now[0], now[1]), second, parted)
