"""The terms that are computed and never added to a loss."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from gradlint.flow.cut import Cut
from gradlint.flow.facts import FlowFacts
from gradlint.flow.summands import summands
from gradlint.location import Location, node_location
from gradlint.source.lookup import enclosing_function
from gradlint.traces.dataflow import ancestors, indices, mask_of
from gradlint.traces.ids import NO_SITE, SiteId, ValueId
from gradlint.traces.op_families import DETACHED_VALUES
from gradlint.traces.ops import KIND_EXTRACT
from gradlint.traces.trace import Parameter


@dataclass(frozen=True)
class DroppedTerm:
    """A scalar with a gradient that nothing was made of."""

    parameters: list[Parameter]
    """Parameters that nothing else uses."""
    computed: SiteId
    """Site of its computation."""
    returned: Location | None
    """The ``return`` that leaves the term out; None if it is not known."""
    parts: tuple[SiteId, ...] = ()
    """Sites of the summands of it that depend on the parameters."""
    cuts: tuple[Cut, ...] = ()
    """The cuts at which the loss makes constants of the parameters' values."""


def dropped_terms(flow: FlowFacts) -> list[DroppedTerm]:
    """Return the terms that were computed and dropped (`Flow.dropped_terms`).

    A scalar that is only inspected (``.item()``, a detach) counts as a metric, unless it is a sum that contains a term
    of the loss.
    """
    trace = flow.trace
    unused = mask_of(flow.unused - flow.steering)
    by_op: dict[int, DroppedTerm] = {}
    for number in range(len(trace.ops) - 1, trace.forward_start - 1, -1):
        op = trace.ops[number]
        if not op.outputs or op.region >= 0 or op.site == NO_SITE:
            continue
        value = op.outputs[0]
        mask = flow.masks.live.get(value, 0) & unused
        entry = trace.values[value]
        if not mask or entry.shape or not entry.requires_grad or value in flow.on_path:
            continue
        readers = [trace.ops[n] for n in flow.consumers.get(value, ())]
        inspections = [r for r in readers if r.kind == KIND_EXTRACT or r.name in DETACHED_VALUES]
        if len(inspections) < len(readers):
            continue  # not the last of it
        parts = summands(flow, value)
        if inspections and flow.on_path.isdisjoint(parts):
            continue
        producers = (trace.made_by(part) for part in parts if flow.masks.live.get(part, 0) & mask)
        sites = tuple(made.site for made in producers if made is not None)
        by_op[number] = DroppedTerm(flow.by_index(indices(mask)), op.site, return_without(flow, op.site), sites)
        unused &= ~mask
    return [term for _, term in sorted(by_op.items())]


def dropped_penalties(flow: FlowFacts) -> list[DroppedTerm]:
    """Return the scalars of a gradient with a graph that nothing reads.

    Silent where any other run of the same line reaches a loss.
    """
    trace = flow.trace
    ops = trace.ops
    training = trace.training
    used = ancestors(ops, [*trace.roots, *(training.roots if training is not None else ())])
    made: set[ValueId] = set()
    scalars: dict[SiteId, list[Parameter]] = {}
    reaching: set[SiteId] = set()
    for number in range(trace.forward_start, len(ops)):
        op = ops[number]
        if op.name == "grad":
            frame = trace.sites.innermost(op.site) if op.site != NO_SITE else None
            if frame is not None and frame.project and op.argument(4, "create_graph") is True:
                made.update(op.outputs)
            continue
        if made.isdisjoint(op.inputs) or op.region >= 0:
            continue
        made.update(op.outputs)
        for value in op.outputs:
            entry = trace.values[value]
            if value in used:
                reaching.add(op.site)
            elif entry.requires_grad and not entry.shape and not flow.consumers.get(value):
                parameters = flow.trained_by([value])
                if parameters:
                    scalars.setdefault(op.site, parameters)
    return [DroppedTerm(members, site, None) for site, members in scalars.items() if site not in reaching]


def return_without(flow: FlowFacts, site: SiteId) -> Location | None:
    """Return the only ``return`` of the function that computes a scalar but does not return it.

    None if the scalar has no name there.
    """
    frame = flow.trace.frame(site)
    if frame is None:
        return None
    function = enclosing_function(frame.code)
    if function is None:
        return None
    name = None
    returns = []
    for node in ast.walk(function):
        if isinstance(node, ast.Return):
            returns.append(node)
        if isinstance(node, ast.Assign) and node.lineno <= frame.location.line <= (node.end_lineno or node.lineno):
            name = node.targets[0].id if isinstance(node.targets[0], ast.Name) else None
    if name is None or len(returns) != 1 or returns[0].value is None:
        return None
    if any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(returns[0].value)):
        return None
    return node_location(frame.path, returns[0])
