"""Facts about a call of ``load_state_dict``: what the module took from the state."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import storage_id, tensors_in
from gradlint.traces.events import IgnoredState, ParameterRegistration, ParameterWrite
from gradlint.traces.ids import EventIndex, ParameterKey

_SAMPLES = 4
"""Number of the state's names that a renaming is derived from."""


def ignored_state(
    recorder: Recorder, module: nn.Module, state: Any, unexpected: Collection[str], op: int, event: EventIndex
) -> IgnoredState | None:
    """Return what a load ignored, if it took nothing of a state that has tensors.

    Args:
        recorder: the recorder of the call.
        module: the module that loads.
        state: the argument of ``load_state_dict``.
        unexpected: the names that the module does not have.
        op: number of ops recorded before the call.
        event: number of events recorded before the call.
    """
    if not isinstance(state, Mapping) or not unexpected or not set(unexpected).issuperset(state):
        return None
    if any(isinstance(e, ParameterRegistration | ParameterWrite) for e in recorder.tape.events[event:]):
        return None
    # batch norm gives a state without it a counter of its own, which is then written
    entries = [recorder.tensors.entry_of(tensor) for tensor in tensors_in(state)]
    values = {entry.value for entry in entries if entry is not None}
    if not entries or any(not values.isdisjoint(o.inputs) for o in recorder.tape.ops[op:]):
        return None
    parameters = dict(nn.Module.named_parameters(module, remove_duplicate=False))
    own: dict[str, Tensor] = {**parameters, **dict(nn.Module.named_buffers(module, remove_duplicate=False))}
    if not own:
        return None
    names = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    nested = "" if names else next(_nested(state, own), "")
    renaming = _renaming(names, own)
    pairs: dict[str, str] = {}
    if nested:
        pairs = {name: name for name in state[nested]}
    elif renaming is not None:
        pairs = {name: renaming[1] + name[len(renaming[0]) :] for name in names if name.startswith(renaming[0])}
    meant = {name: new for name, new in pairs.items() if new in parameters}
    trainable = [n for n, p in parameters.items() if p.requires_grad]  # without the frozen base of adapters
    candidates = list(meant.values()) or trainable or list(parameters)
    name, own_name = next(iter(meant.items()), (str(next(iter(state))), (candidates or list(own))[0]))
    keys = {ParameterKey(id(parameters[new])) for new in candidates}
    return IgnoredState(name, own_name, renaming, nested, frozenset(keys))


def _nested(state: Mapping[Any, Any], own: Collection[str]) -> Iterator[str]:
    """Yield the keys below which names of the module stand: ``{"epoch": 3, "model": {...}}``."""
    for key, value in state.items():
        if isinstance(key, str) and isinstance(value, Mapping) and any(name in own for name in value):
            yield key


def _renaming(names: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Return the change of prefix that gives most names of a state to the module, if any."""
    best, hits = None, 0
    for name in list(names)[:: max(1, len(names) // _SAMPLES)]:
        for prefixes in dict.fromkeys(_prefixes(name, other) for other in own if _last(name) == _last(other)):
            matched = sum(
                n.startswith(prefixes[0])
                and (mine := own.get(prefixes[1] + n[len(prefixes[0]) :])) is not None
                and mine.shape == tensor.shape
                for n, tensor in names.items()
            )
            if matched > hits:
                best, hits = prefixes, matched
    return best if 2 * hits > len(names) else None


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _prefixes(name: str, other: str) -> tuple[str, str]:
    """Return what stands before the common end of two dotted names."""
    parts, others = name.split("."), other.split(".")
    common = 0
    while common < min(len(parts), len(others)) and parts[-1 - common] == others[-1 - common]:
        common += 1
    return tuple("".join(f"{part}." for part in p[: len(p) - common]) for p in (parts, others))  # type: ignore[return-value]


def own_state(recorder: Recorder, module: nn.Module, state: Any) -> frozenset[ParameterKey]:
    """Return the keys of a module's parameters if a state has only its own tensors.

    An in-place write to the state (``state["w"].copy_(w)``) has changed the module already.
    """
    if not isinstance(state, Mapping) or not state:
        return frozenset()
    parameters = dict(nn.Module.named_parameters(module, remove_duplicate=False))
    own: dict[str, Tensor] = {**parameters, **dict(nn.Module.named_buffers(module, remove_duplicate=False))}
    for name, tensor in state.items():
        mine = own.get(name)
        if mine is None or not isinstance(tensor, Tensor) or not storage_id(mine):
            return frozenset()
        if storage_id(tensor) != storage_id(mine):
            return frozenset()
        entry = recorder.tensors.entry_of(tensor)
        producer = recorder.tape.values[entry.value].producer if entry is not None else -1
        if producer < 0 or recorder.tape.ops[producer].name != "detach":
            return frozenset()
    return frozenset(ParameterKey(id(p)) for name, p in parameters.items() if name in state)
