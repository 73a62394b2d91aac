"""Snapshots taken of a target: recorded, and reduced to plain facts."""

from __future__ import annotations

import re

from gradlint.engine.check import record_target, summarize
from gradlint.engine.notes import nothing_to_judge
from gradlint.engine.options import Options
from gradlint.errors import TargetError
from gradlint.experiments.settle import analyse
from gradlint.findings import TargetSummary
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import outcome_of
from gradlint.lock.snapshot import Entry, Norm, Snapshot
from gradlint.system.legible import one_line
from gradlint.system.undo import leaving_nothing
from gradlint.traces.trace import Optimizer, Parameter, Trace


@leaving_nothing
def snapshot_target(target: str, options: Options | None = None, name: str = "") -> tuple[Snapshot, TargetSummary]:
    """Record a target and return its snapshot and its summary.

    Raises:
        TargetError: it cannot be recorded, or has nothing that could train.
    """
    with record_target(target, options or Options(), name) as recorded:
        trace = recorded.trace
        problem = nothing_to_judge(trace)
        if problem:
            raise TargetError(problem)
        flow = analyse(trace, recorded.replay, terms=False)
        return take(trace, flow), summarize(trace, flow)


def take(trace: Trace, flow: Flow) -> Snapshot:
    """Return the snapshot of a recorded setup."""
    snapshot = Snapshot(trace.target)
    for parameter in trace.parameters:
        if not parameter.in_tree:
            continue
        now = outcome_of(flow, parameter)
        snapshot.entries[parameter.fqn] = Entry(
            parameter.fqn, tuple(parameter.shape), now.kind, _word(now.by), _held(trace, parameter)
        )
        snapshot.why[parameter.fqn] = (now.why, now.location)
    for module in trace.modules:
        if module.in_tree and "running_mean" in module.running_stats:
            snapshot.norms[module.fqn] = Norm(module.fqn, _word(module.type.name), module.training)
    return snapshot


def _held(trace: Trace, parameter: Parameter) -> tuple[str, ...]:
    labels = []
    for number, index in parameter.groups:
        optimizer = trace.optimizers[number]
        group = optimizer.groups[index]
        rate = "" if group.lr is None else f" lr={group.lr:g}" + (" scheduled" if group.scheduled else "")
        labels.append(_label(optimizer) + rate)
    return tuple(sorted(labels))


def _label(optimizer: Optimizer) -> str:
    name, kind = _word(optimizer.name), _word(optimizer.type)
    return f"{name}:{kind}" if name else kind


def _word(text: str) -> str:
    """Return a name of user code as one word, so that it is one field of a line."""
    return re.sub(r"\s+", "_", one_line(text))
