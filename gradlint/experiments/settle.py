"""Whether parameters reach the loss by a way that was not recorded: settled by nudging them. Imports no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradlint.traces.dataflow import indices
from gradlint.traces.ids import ParameterIndex
from gradlint.traces.op_families import ARRAYS_OUT, DECISIONS
from gradlint.traces.trace import KIND_EXTRACT, Parameter, Trace

if TYPE_CHECKING:
    from gradlint.experiments.perturb import Verdict
    from gradlint.flow.flow import Flow


def settle(flow: Flow) -> None:
    """Nudge the unused parameters whose values left torch, or went where the recording does not tell: if the loss
    moves, they are starved, not unused."""
    trace = flow.trace
    if not trace.roots:
        return  # there is no loss to move
    groups: dict[tuple[int, ...], list[ParameterIndex]] = {}
    for index, numbers in _exits(flow).items():
        groups.setdefault(tuple(numbers), []).append(index)
    # Parameters that left by the same exits share their fate: one verdict serves them all.
    for leaving, members in groups.items():
        verdicts = nudged(trace, flow.by_index(members), together=True).values()
        outcomes = {v.outcome for v in verdicts}
        if "reaches" in outcomes:
            flow.starved.update(members)
            flow.unused.difference_update(members)
            whole = [n for n in leaving if trace.ops[n].name in ARRAYS_OUT]
            flow.proven.update(dict.fromkeys(members, (whole or list(leaving))[0]))
        elif "unknown" in outcomes:
            flow.why_undecided = next(v.reason for v in verdicts if v.reason)
            flow.undecided.update(members)
            flow.unused.difference_update(members)


def _exits(flow: Flow) -> dict[ParameterIndex, list[int]]:
    """Unused parameter → numbers of the ops through which its value left torch; -1 where it is not known how."""
    trace = flow.trace
    exits: dict[ParameterIndex, list[int]] = {}
    steering = 0
    for number in range(trace.forward_start, len(trace.ops)):
        op = trace.ops[number]
        if op.kind != KIND_EXTRACT:
            continue
        depends = 0
        for value in op.inputs:
            depends |= flow.masks.data.get(value, 0)
        if op.name in DECISIONS:
            steering |= depends
            continue
        for index in indices(depends):
            if index in flow.unused:
                exits.setdefault(index, []).append(number)
    for index in flow.unused - set(exits):
        lost = flow.lost_at(1 << index)
        if not steering >> index & 1 and (lost >= 0 or trace.unseen):
            exits[index] = [lost]
    return exits


def nudged(trace: Trace, parameters: Sequence[Parameter], together: bool = False) -> dict[ParameterIndex, Verdict]:
    """Whether the loss moves when parameters are moved: each by itself, or all of them together."""
    from gradlint.experiments.perturb import Verdict, settle

    if trace.rerun is None:
        return {p.index: Verdict("unknown", reason="the set-up is not at hand any more") for p in parameters}
    names = {p.fqn: p.tensor for p in trace.parameters}
    fqns = [p.fqn for p in parameters]
    runs = 12 if together else 40
    verdicts = settle(trace.rerun, names, fqns, contextlib.nullcontext, max_runs=runs, apart=not together)
    return {p.index: verdicts[p.fqn] for p in parameters}
