"""What libraries' ``from_pretrained()``, and loads of a part of the model, left at initial values. Imports no torch."""

from __future__ import annotations

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


def pretrained_loads(trace: Trace) -> list[PretrainedLoad]:
    """Return the calls of ``from_pretrained()`` of libraries, with what they loaded and what they initialised.

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
    return list(found.values())


def _caller(trace: Trace, site: SiteId) -> Frame | None:
    """Return the frame of user code that called a library's ``from_pretrained()``, if a site lies within such a call.

    A project's own ``from_pretrained()`` inside of it may do anything.
    """
    inside = False
    for frame in trace.sites.chain(site):
        if frame.project:
            return frame if inside else None
        inside = inside or frame.code.co_name == "from_pretrained"
    return None


def left_out_blocks(trace: Trace) -> Iterator[tuple[SiteId, list[Parameter]]]:
    """Yield the loads that left whole blocks of a stack at initial values, with their parameters.

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
    found: dict[int, Parameter] = {}
    for holder in trace.modules:
        blocks = [trace.modules[m] for name, m in holder.children if name.isdecimal()] if holder.in_tree else []
        if len(blocks) <= _ALIKE:
            continue
        contents = [_content(trace, block) for block in blocks]
        whole = [c for c in contents if all(p.index in loaded for p in c.values())]
        for content in contents:
            alike = sum(_shapes(content) == _shapes(other) for other in whole)
            if alike >= _ALIKE and _is_block(content) and all(p.index in fresh for p in content.values()):
                found.update({p.index: p for p in content.values()})
    return [found[index] for index in sorted(found)]


def _content(trace: Trace, block: Module) -> dict[str, Parameter]:
    """Return the parameters of a block by their names within it."""
    return {p.fqn[len(block.fqn) + 1 :]: p for p in trace.below(block)}


def _shapes(content: Mapping[str, Parameter]) -> dict[str, tuple[int, ...]]:
    return {name: p.shape for name, p in content.items()}


def _is_block(content: Mapping[str, Parameter]) -> bool:
    """Return True if a module has several weights: it is no single layer."""
    return sum(len(p.shape) > 1 for p in content.values()) > 1
