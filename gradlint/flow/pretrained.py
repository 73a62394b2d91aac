"""What libraries' ``from_pretrained()``, and loads of a part of the model, left at initial values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from gradlint.flow.loads import is_initialised_only
from gradlint.traces.events import ParameterWrite, StateLoaded
from gradlint.traces.ids import NO_SITE, SiteId
from gradlint.traces.sites import Frame
from gradlint.traces.trace import Module, Parameter, Trace

_ALIKE = 2
"""Number of equal blocks with loaded values beside one without from which it is taken for left out."""


@dataclass
class PretrainedLoad:
    """The parameters that one call of a library's ``from_pretrained()`` made."""

    site: SiteId
    loaded: list[Parameter]
    initialised: list[Parameter]
    """Those that have initial values only."""
    from_nothing: bool = False
    """True if the call was given nothing to load, as None for a path."""


def pretrained_loads(trace: Trace) -> list[PretrainedLoad]:
    """Return the calls of ``from_pretrained()`` of libraries, with their parameters.

    A loaded parameter is made of the checkpoint's tensor, or it is written from one. One that the checkpoint does not
    have is filled by an initialiser.
    """
    found: dict[Frame, PretrainedLoad] = {}
    for parameter in trace.parameters:
        event = parameter.created_by
        if event is None or not parameter.in_tree or event.site == NO_SITE:
            continue
        frame = _caller(trace, event.site)
        if frame is not None:
            load = found.setdefault(frame, PretrainedLoad(event.site, [], []))
            (load.initialised if is_initialised_only(parameter) else load.loaded).append(parameter)
            load.from_nothing |= event.from_nothing
    return list(found.values())


def _caller(trace: Trace, site: SiteId) -> Frame | None:
    """Return the frame that called the ``from_pretrained()`` of a library around a site.

    A project's own ``from_pretrained()`` inside of it may do anything.
    """
    inside = False
    for frame in trace.sites.chain(site):
        if frame.project:
            return frame if inside else None
        inside = inside or frame.code.co_name == "from_pretrained"
    return None


def left_out_blocks(trace: Trace) -> Iterator[tuple[SiteId, list[Parameter]]]:
    """Yield the loads that left whole blocks of a stack at initial values.

    A block is one of several submodules with numbers for names. Blocks beside it have the same parameters, and the
    load gave them values.
    """
    for load in pretrained_loads(trace):
        if left := _left_out(trace, {p.index for p in load.loaded}, load.initialised):
            yield load.site, left
    for state in trace.events_of(StateLoaded):
        if state.op > trace.forward_start or state.ignored is not None:
            continue
        below = trace.below(trace.modules[state.module])
        written = {
            e.parameter
            for e in trace.events[state.first : state.number]
            if isinstance(e, ParameterWrite) and e.loading >= 0
        }
        loaded = {p.index for p in below if p.key in written}
        if left := _left_out(trace, loaded, [p for p in below if is_initialised_only(p)]):
            yield state.site, left


def _left_out(trace: Trace, loaded: Set[int], initialised: list[Parameter]) -> list[Parameter]:
    """Return the parameters of blocks that were left out."""
    if not loaded or not initialised:
        return []
    fresh = {p.index for p in initialised}
    around = {module.number for p in initialised for module in trace.around(p.module)}
    found: dict[int, Parameter] = {}
    for holder in trace.modules:
        if not holder.in_tree or holder.number not in around:
            continue
        contents = list(_blocks(trace, holder).values())
        whole = Counter(_shapes(c) for c in contents if all(p.index in loaded for p in c.values()))
        for content in contents if whole else ():
            is_left_out = _is_block(content) and all(p.index in fresh for p in content.values())
            if is_left_out and whole[_shapes(content)] >= _ALIKE:
                found.update({p.index: p for p in content.values()})
    return [found[index] for index in sorted(found)]


def _blocks(trace: Trace, holder: Module) -> dict[str, dict[str, Parameter]]:
    """Return the parameters of numbered submodules: number → name within → parameter."""
    numbered = {name for name, _ in holder.children if name.isdecimal()}
    blocks: dict[str, dict[str, Parameter]] = {}
    start = len(holder.fqn) + 1 if holder.fqn else 0
    for parameter in trace.below(holder) if len(numbered) > _ALIKE else ():
        name, _, within = parameter.fqn[start:].partition(".")
        if name in numbered and within:
            blocks.setdefault(name, {})[within] = parameter
    return blocks


def _shapes(content: Mapping[str, Parameter]) -> frozenset[tuple[str, tuple[int, ...]]]:
    return frozenset((name, p.shape) for name, p in content.items())


def _is_block(content: Mapping[str, Parameter]) -> bool:
    """Return True if a module has several weights: it is no single layer."""
    return sum(len(p.shape) > 1 for p in content.values()) > 1
