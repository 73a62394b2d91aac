"""Tensors that optimizers contain and the model no longer does."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.flow.slots import Slots
from gradlint.traces.events import ChildRegistration, Freeze, ParameterRegistration, Registration
from gradlint.traces.ids import EventIndex, ModuleIndex, OptimizerIndex, ParameterKey, SiteId
from gradlint.traces.trace import Parameter, Trace


@dataclass(frozen=True)
class ReplacedParameter:
    """A tensor in an optimizer that was replaced in the model after the optimizer got it."""

    optimizer: OptimizerIndex
    fqn: str
    """Its name before it was replaced."""
    registration: Registration
    """The registration that replaced it."""
    now: tuple[Parameter, ...]
    """The parameters now under its name, or in the module that replaced its own."""


def replaced_parameters(trace: Trace) -> list[ReplacedParameter]:
    """Return the tensors that optimizers contain and the model no longer does."""
    unknown = [
        (optimizer, group, key)
        for optimizer in trace.optimizers
        for group in optimizer.groups
        for key in group.keys
        if key not in trace.by_key and group.event >= 0
    ]
    return [s for o, g, key in unknown if (s := _replacement_of(trace, o.number, g.event, key)) is not None]


@dataclass(frozen=True)
class FrozenInPlace:
    """A parameter, frozen as it was created, in the place of one that trained."""

    parameter: Parameter
    created: SiteId
    replaced: ChildRegistration
    """The registration that put it there."""


def frozen_in_place(trace: Trace) -> list[FrozenInPlace]:
    """Return the parameters that are frozen in the place of one that trained.

    Their values are computed from that one, which the model has no longer. A line of its own freezes none of them.
    """
    found = [p for p in trace.parameters if p.frozen_from and p.frozen_throughout]
    if not found:
        return []
    slots = Slots(trace)
    ever_frozen = {e.parameter for e in trace.events_of(Freeze)}
    result = []
    for parameter in found:
        created = parameter.created_by
        if created is None or any(e.site != created.site for e in parameter.flag_changes):
            continue
        around = {module.number for module in trace.around(parameter.module)}
        gone = parameter.frozen_from - ever_frozen - trace.by_key.keys()
        places = [slots.of(registration) for key in sorted(gone) for registration in slots.registrations.get(key, ())]
        by = [place.replaced_by for place in places if place is not None]
        put = next((e for e in by if isinstance(e, ChildRegistration) and e.child in around), None)
        if put is not None:
            result.append(FrozenInPlace(parameter, created.site, put))
    return result


def _replacement_of(
    trace: Trace, optimizer: OptimizerIndex, added_at: EventIndex, key: ParameterKey
) -> ReplacedParameter | None:
    events = list(trace.events_of(Registration))
    last: Registration | None = next(
        (e for e in reversed(events) if isinstance(e, ParameterRegistration) and e.parameter == key), None
    )
    names: list[str] = []
    while last is not None:
        module, name = last.module, last.name
        names.insert(0, name)
        if trace.modules[module].in_tree:
            slot = [e for e in events if e.module == module and e.name == name]
            if slot[-1] is last or slot[-1].number < added_at:
                return None
            prefix = trace.modules[module].fqn
            return _replaced_by(trace, optimizer, ".".join([prefix, *names] if prefix else names), slot[-1])
        above = next((e for e in reversed(events) if isinstance(e, ChildRegistration) and e.child == module), None)
        if above is None:
            return _rebuilt(trace, optimizer, added_at, module, ".".join(names))
        last = above
    return None


def _replaced_by(trace: Trace, optimizer: OptimizerIndex, fqn: str, event: Registration) -> ReplacedParameter:
    same = trace.by_fqn.get(fqn)
    if same is not None or not isinstance(event, ChildRegistration):
        return ReplacedParameter(optimizer, fqn, event, () if same is None else (same,))
    return ReplacedParameter(optimizer, fqn, event, tuple(trace.below(trace.modules[event.child])))


def _rebuilt(
    trace: Trace, optimizer: OptimizerIndex, added_at: EventIndex, module: ModuleIndex, fqn: str
) -> ReplacedParameter | None:
    """Return the replacement if the whole model was built again, after the optimizer."""
    old = trace.modules[module]
    root = next((m for m in trace.modules if m.in_tree and m.parent < 0), None)
    if root is None or root.fqn or root.type != old.type or old.calls or fqn not in trace.by_fqn:
        return None
    if any(p.groups for p in trace.parameters if p.in_tree):
        return None
    first = next((e for e in trace.events_of(Registration) if e.module == root.number), None)
    return _replaced_by(trace, optimizer, fqn, first) if first is not None and first.number > added_at else None
