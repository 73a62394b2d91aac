"""The history of each parameter: its events, the parameters that it was copied from, writes to it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.forward_start import ForwardStart
from gradlint.recorder.facts.module_tree import NamedParameter, places
from gradlint.recorder.hooks.log import HookLog
from gradlint.restore.tensors import is_readable, same_values
from gradlint.traces.dataflow import indices, propagate, value_inputs
from gradlint.traces.events import Freeze, ParameterEvent, ParameterRegistration, ParameterWrite, Unfreeze
from gradlint.traces.ids import NO_SITE, NO_VALUE, ParameterIndex, ParameterKey, ValueId
from gradlint.traces.ops import Op


@dataclass
class ParameterHistory:
    """The history of one parameter."""

    events: list[ParameterEvent] = field(default_factory=list)
    """Its registrations, freezes, unfreezes and writes, in order."""
    copied_from: set[ParameterIndex] = field(default_factory=set)
    """Indices of parameters that its value was copied from before the forward."""
    made_from: set[ParameterKey] = field(default_factory=set)
    """Keys of frozen parameters outside the model that its value was computed from before the forward."""
    frozen_from: set[ParameterKey] = field(default_factory=set)
    """Keys of parameters, at most two, that required grad and that its value was computed from as it was created; empty
    unless it is frozen."""
    computed: bool = False
    """True if it was created with values computed from another parameter."""
    written: bool = False
    """True if user code wrote or replaced its value during the forward or the loss."""


def histories(
    recorder: Recorder,
    log: HookLog,
    parameters: Sequence[NamedParameter],
    begin: ForwardStart,
    roots: Mapping[str, nn.Module],
) -> list[ParameterHistory]:
    """Return the history of each parameter."""
    result = [ParameterHistory() for _ in parameters]
    by_key = {p.key: h for p, h in zip(parameters, result, strict=True)}
    for event in recorder.tape.events:
        if not isinstance(event, ParameterRegistration | Freeze | Unfreeze | ParameterWrite):
            continue
        history = by_key.get(event.parameter)
        if history is not None:
            history.events.append(event)
            torch_writes = event.parameter in begin.lazy  # its first values are written by torch
            if (
                isinstance(event, ParameterWrite)
                and event.op >= begin.start
                and event.site != NO_SITE
                and not torch_writes
            ):
                history.written = True
    _find_copies(recorder, log, parameters, begin, result)
    _find_copies_made_before(roots, parameters, begin, result)
    return result


def _find_copies(
    recorder: Recorder,
    log: HookLog,
    parameters: Sequence[NamedParameter],
    begin: ForwardStart,
    histories: Sequence[ParameterHistory],
) -> None:
    """Note for each parameter the others that its value was copied or computed from."""
    start, earlier = begin.start, begin.earlier
    ops, values, watched = recorder.tape.ops, recorder.tape.values, recorder.tensors.owners
    index = {p.key: p.index for p in parameters}
    owners = {v: index[key] for v, key in watched.items() if key in index}
    # An optimizer's kernels take all parameters at once, and make none of them a copy of another.
    stepped = {number for step in log.steps for number in step}
    copying = [op for number, op in enumerate(ops[:start]) if number not in stepped]
    masks = propagate(copying, values, owners)
    owned: dict[ParameterKey, list[ValueId]] = {}
    for value, key in watched.items():
        owned.setdefault(key, []).append(value)
    first = {key: values[0] for key, values in owned.items()}
    # frozen parameters that the model has no longer, as those before a resize
    events = recorder.tape.events
    gone = list({e.parameter for e in events if isinstance(e, Freeze) and e.op <= start} - index.keys())
    bits = {key: ParameterIndex(bit) for bit, key in enumerate(gone)}
    former = propagate(copying, values, {v: bits[k] for v, k in watched.items() if k in bits}).data if gone else {}
    if any(p.key not in earlier for p in parameters):  # copies made in the forward
        masks.data |= propagate(copying + ops[start:], values, owners).data
    hidden = {
        p.key for p, h in zip(parameters, histories, strict=True) if h.events and h.events[0].region >= 0
    } & first.keys()  # created where grad mode was off
    created = {p.key for p, h in zip(parameters, histories, strict=True) if h.events} & first.keys()
    frozen = {p.key for p in parameters if not begin.flags.get(p.key, bool(p.tensor.requires_grad))} & created
    sources = _sources(ops[:start], watched) if hidden or frozen else {}
    for parameter, history in zip(parameters, histories, strict=True):
        key = parameter.key
        if key in hidden:
            history.computed = bool(sources.get(first[key], frozenset()) - {key})
        if key in frozen:
            others = sources.get(first[key], frozenset()) - {key}
            history.frozen_from = {other for other in others if values[first[other]].requires_grad}
        value = earlier.get(key, first.get(key, NO_VALUE))
        if value >= 0:
            # a freeze gives a new value without a producer: the value before it shows the origin of the copy
            computed = [v for v in owned.get(key, ()) if v <= value and values[v].producer >= 0]
            depends = masks.data.get(computed[-1] if computed else value, 0)
            history.copied_from = set(indices(depends)) - {parameter.index}
            history.made_from = {gone[bit] for bit in indices(former.get(computed[-1] if computed else value, 0))}


def _sources(ops: Sequence[Op], watched: Mapping[ValueId, ParameterKey]) -> Mapping[ValueId, frozenset[ParameterKey]]:
    """Return value → the parameters that it was computed from, or two of them."""
    found: dict[ValueId, frozenset[ParameterKey]] = {}
    for op in ops:
        inputs = list(value_inputs(op))
        keys = {watched[v] for v in inputs if v in watched}.union(*(found[v] for v in inputs if v in found))
        if keys:
            for output in op.outputs:
                found[output] = frozenset(itertools.islice(found.get(output, frozenset()) | keys, 2))
    return found


def _find_copies_made_before(
    roots: Mapping[str, nn.Module],
    parameters: Sequence[NamedParameter],
    begin: ForwardStart,
    histories: Sequence[ParameterHistory],
) -> None:
    """Take a wholly frozen module for a copy if it equals one of its kind that trains.

    Only modules made before the recording: a mean teacher in a model that was built elsewhere.
    """
    by_key = {p.key: p for p in parameters}
    trains = [begin.flags.get(p.key, bool(p.tensor.requires_grad)) for p in parameters]
    untouched = [not trains[p.index] and not histories[p.index].events for p in parameters]
    if not any(untouched):
        return
    alike: dict[Any, list[list[NamedParameter]]] = {}
    for place in places(roots):
        named = [(n, p) for n, p in place.module.named_parameters() if not is_lazy(p)]
        own = [parameter for _, p in named if (parameter := by_key.get(ParameterKey(id(p)))) is not None]
        if own and len(own) == len(named):
            kind = (type(place.module), tuple((n, p.shape) for n, p in named))
            alike.setdefault(kind, []).append(own)
    for modules in alike.values():
        for copy in modules:
            if not all(untouched[p.index] for p in copy):
                continue
            for model in modules:
                if any(trains[p.index] for p in model) and _equal(copy, model):
                    for one, other in zip(copy, model, strict=True):
                        histories[one.index].copied_from.add(other.index)


def _equal(copy: Sequence[NamedParameter], model: Sequence[NamedParameter]) -> bool:
    """Return True if all values are equal, and not only since each module of the kind starts so."""
    tensors = [p.tensor.detach() for p in copy]
    if not all(map(is_readable, tensors)):
        return False
    telling = any(t.numel() > 1 and not bool((t == t.flatten()[0]).all()) for t in tensors)
    return telling and all(same_values(t, p.tensor.detach()) for t, p in zip(tensors, model, strict=True))
