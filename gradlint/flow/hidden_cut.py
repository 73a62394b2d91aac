"""Cuts that no op of the recorded data flow shows: a freeze around a call, a write beside autograd, an unknown one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradlint.flow.cut import Cut, CutKind, written_through
from gradlint.flow.facts import FlowFacts
from gradlint.traces.events import Freeze
from gradlint.traces.ids import NO_SITE, OpIndex, ParameterIndex, ValueId
from gradlint.traces.ops import KIND_ALIAS


def frozen_where_read(flow: FlowFacts, members: Iterable[ParameterIndex]) -> Iterator[tuple[Cut, ParameterIndex]]:
    """Yield the freezes of parameters that are frozen wherever the way to the loss reads them."""
    trace = flow.trace
    reads = _reads(flow, members)
    for index, numbers in reads.items():
        own = {v for n in numbers for v in trace.ops[n].inputs if trace.owners.get(v) == index}
        if any(trace.values[v].requires_grad for v in own):
            continue
        freezes = [e for e in trace.parameters[index].flag_changes if isinstance(e, Freeze) and e.op <= numbers[0]]
        if freezes:
            site = freezes[-1].site
            frame = trace.frame(site)
            yield (
                Cut(
                    CutKind.FROZEN,
                    trace.ops[numbers[0]].name,
                    frame.location if frame is not None else None,
                    site,
                    numbers[0],
                    [],
                    project=frame is not None and frame.project,
                ),
                index,
            )


def written_beside(flow: FlowFacts, members: Iterable[ParameterIndex]) -> Iterator[tuple[Cut, ParameterIndex]]:
    """Yield the writes to memory of another tensor that autograd does not see.

    After ``y.data.copy_(x)``, ``y`` has the values of ``x``, and its own gradient path stays as it was.
    """
    trace, masks = flow.trace, flow.masks
    wanted = 0
    for index in members:
        wanted |= 1 << index
    for op in trace.ops[trace.forward_start :] if wanted else ():
        if op.kind != KIND_ALIAS or len(op.inputs) != 2 or op.outputs[0] not in flow.on_path:
            continue
        old, written = op.inputs
        lost = masks.live.get(written, 0) & ~masks.live.get(old, 0) & wanted
        number = trace.values[written].producer
        if not lost or number < 0:
            continue
        writer = trace.ops[number]
        name = written_through(trace, writer)
        frame = trace.frame(writer.site)
        where, project = (frame.location, frame.project) if frame is not None else (None, False)
        for index in members:
            if lost >> index & 1:
                yield Cut(CutKind.ROUNDTRIP, name, where, writer.site, number, [], project=project), index


def unseen(flow: FlowFacts, members: Iterable[ParameterIndex]) -> Iterator[tuple[Cut, ParameterIndex]]:
    """Yield the first call on the way to the loss that reads each parameter.

    Gradient ends somewhere after it.
    """
    trace = flow.trace
    reads = _reads(flow, members)
    for index in members:
        number = reads[index][0] if index in reads else OpIndex(len(trace.ops) - 1)
        site = trace.ops[number].site if index in reads else NO_SITE
        frame = trace.frame(site)
        where, project = (frame.location, frame.project) if frame is not None else (None, True)
        yield Cut(CutKind.UNSEEN, trace.ops[number].name, where, site, number, [], project=project), index


def _reads(flow: FlowFacts, members: Iterable[ParameterIndex]) -> dict[ParameterIndex, list[OpIndex]]:
    """Return parameter → numbers of the ops on the way to the loss that read it."""
    trace = flow.trace
    wanted = set(members)
    own: dict[ValueId, ParameterIndex] = {v: i for v, i in trace.owners.items() if i in wanted}
    reads: dict[ParameterIndex, list[OpIndex]] = {}
    for number in range(trace.forward_start, len(trace.ops)) if own else ():
        op = trace.ops[number]
        for value in op.inputs:
            if value in own and flow.on_path.intersection(op.outputs):
                numbers = reads.setdefault(own[value], [])
                if numbers[-1:] != [number]:
                    numbers.append(OpIndex(number))
    return reads
