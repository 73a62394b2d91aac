"""Parameters that the loss seems not to depend on, although their values left torch before it was computed."""

from __future__ import annotations

from gradlint.flow.facts import FlowFacts
from gradlint.source.conditions import is_only_tested
from gradlint.source.lookup import call_and_file_at
from gradlint.traces.dataflow import indices, mask_of, union
from gradlint.traces.ids import OpIndex, ParameterIndex
from gradlint.traces.op_families import ARRAYS_OUT, DECISIONS, NUMBERS_OUT
from gradlint.traces.ops import KIND_EXTRACT, Op
from gradlint.traces.trace import Trace

Groups = dict[tuple[OpIndex, ...], tuple[ParameterIndex, ...]]
"""Ops by which values left torch (-1: unknown) → indices of the unused parameters whose values left by them."""


def grouped_by_exit(flow: FlowFacts) -> Groups:
    """Return the unused parameters whose values left torch or the recording, by their exits.

    Parameters that left by the same exits share their fate: one experiment serves them all.
    """
    if not flow.trace.roots:
        return {}  # there is no loss to move
    groups: dict[tuple[OpIndex, ...], list[ParameterIndex]] = {}
    for index, numbers in _exits(flow).items():
        groups.setdefault(tuple(numbers), []).append(index)
    return {exits: tuple(members) for exits, members in groups.items()}


def apply_evidence(flow: FlowFacts, groups: Groups) -> None:
    """Classify the parameters of each group by the evidence; they are starved if the loss moves."""
    for exits, members in groups.items():
        effect = flow.evidence.of_group(members)
        if effect.outcome == "reaches":
            flow.starved.update(members)
            flow.unused.difference_update(members)
            whole = [n for n in exits if flow.trace.ops[n].name in ARRAYS_OUT]
            flow.proven.update(dict.fromkeys(members, (whole or list(exits))[0]))
        elif effect.outcome == "steers":
            flow.steering.update(members)
        elif effect.outcome == "unknown" and not _are_dropped(flow, exits):
            flow.why_undecided = effect.reason
            flow.undecided.update(members)
            flow.unused.difference_update(members)


def _are_dropped(flow: FlowFacts, exits: tuple[OpIndex, ...]) -> bool:
    """Return True if the last result of each parameter is dropped, and no value left torch."""
    return all(n >= 0 and flow.trace.ops[n].kind != KIND_EXTRACT for n in exits) and not flow.trace.unrecorded


def _is_only_tested(trace: Trace, op: Op) -> bool:
    """Return True if a number that leaves torch is read by the conditions of branches alone."""
    frame = trace.frame(op.site)
    if frame is not None:
        match call_and_file_at(frame.path, frame.location, (op.name.strip("_"),)):
            case module, call:
                return is_only_tested(module, call)
    return False


def _exits(flow: FlowFacts) -> dict[ParameterIndex, list[OpIndex]]:
    """Return unused parameter → numbers of the ops by which its value left torch; -1 if unknown."""
    trace = flow.trace
    exits: dict[ParameterIndex, list[OpIndex]] = {}
    unused, steering = mask_of(flow.unused), 0
    for number in range(trace.forward_start, len(trace.ops)):
        op = trace.ops[number]
        if op.kind != KIND_EXTRACT:
            continue
        left = union(flow.masks.data, op.inputs) & unused
        if op.name in DECISIONS or (left and op.name in NUMBERS_OUT and _is_only_tested(trace, op)):
            steering |= left
            continue
        for index in indices(left):
            exits.setdefault(index, []).append(OpIndex(number))
    flow.steering = set(indices(steering)) - exits.keys()
    for index in flow.unused - set(exits):
        lost = flow.lost_at.get(index, OpIndex(-1))
        if not steering >> index & 1 and (lost >= 0 or trace.unrecorded):
            exits[index] = [lost]
    return exits
