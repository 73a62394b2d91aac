"""Tensors whose autograd graphs outlive the step that made them."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.training_log import TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.traces.dataflow import ancestors
from gradlint.traces.ids import ValueId
from gradlint.traces.training import KeptGraph


class StepMark(NamedTuple):
    """Numbers of values and autograd nodes at the end of a step."""

    values: int
    """Number of values recorded."""
    nodes: int
    """Number of autograd's next node; -1 if this version of torch has no such number."""


def mark(recorder: Recorder) -> StepMark:
    """Return the current numbers of values and autograd nodes."""
    return StepMark(len(recorder.tape.values), _next_node())


def _next_node() -> int:
    try:
        with without_torch_function(), torch.enable_grad():
            node: Any = (torch.zeros((), requires_grad=True) + 0).grad_fn
            return int(node._sequence_nr())
    except (RuntimeError, AttributeError):
        return -1


def find_kept_graphs(recorder: Recorder, training: TrainingLog, marks: Sequence[StepMark]) -> tuple[KeptGraph, ...]:
    """Return the graphs that are alive two steps after their own.

    These are tensors of one place from several steps (a list of losses that grows), or one tensor whose graph reaches
    back through the steps (a running sum). A single tensor left over from an earlier step does not count. Nothing is
    reported if a graph was retained on purpose.
    """
    steps = len(marks) - 1
    if steps < 3 or any(b.retains for b in training.backwards):
        return ()
    if not _found(recorder, marks):
        return ()
    gc.collect()  # what only waits for the collector is not kept
    return tuple(_found(recorder, marks))


def _found(recorder: Recorder, marks: Sequence[StepMark]) -> list[KeptGraph]:
    tape = recorder.tape
    alive: list[tuple[ValueId, Tensor]] = []
    for entry in list(recorder.tensors.tracked.values()):
        tensor = entry()
        if tensor is None or entry.value < marks[0].values:
            continue
        with without_torch_function():
            if tensor.grad_fn is not None and tape.values[entry.value].producer >= 0:
                alive.append((entry.value, tensor))
    return _growing(recorder, alive, marks) or _summed(recorder, alive, marks)


def _place(recorder: Recorder, value: ValueId) -> tuple[Any, int]:
    tape = recorder.tape
    site = tape.ops[tape.values[value].producer].site
    return tape.sites.rows[site][:2] if site >= 0 else (None, site)


def _growing(recorder: Recorder, alive: list[tuple[ValueId, Tensor]], marks: Sequence[StepMark]) -> list[KeptGraph]:
    steps = len(marks) - 1
    places: dict[tuple[Any, int], dict[int, ValueId]] = {}
    for value, _ in alive:
        window = next((w for w in range(steps) if value < marks[w + 1].values), steps)
        if window <= steps - 2:
            places.setdefault(_place(recorder, value), {})[window] = value
    tape = recorder.tape
    growing = {
        place: windows
        for place, windows in places.items()
        if place[0] is not None and len(windows) > 1 and min(windows) <= steps - 3
    }
    last = {place: max(windows.values()) for place, windows in growing.items()}
    graphs = []
    for place, value in last.items():
        others = [v for v in last.values() if v > value]
        if others and value in ancestors(tape.ops[: tape.values[max(others)].producer + 1], others):
            continue  # the tensor that holds it is reported
        graphs.append(KeptGraph(tape.ops[tape.values[value].producer].site, len(growing[place]), False))
    return graphs


def _summed(recorder: Recorder, alive: list[tuple[ValueId, Tensor]], marks: Sequence[StepMark]) -> list[KeptGraph]:
    steps = len(marks) - 1
    limit = marks[steps - 2].nodes
    if limit < 0 or marks[0].nodes < 0:
        return []
    tape = recorder.tape
    for value, tensor in sorted(alive, key=lambda entry: -entry[0]):
        site = tape.ops[tape.values[value].producer].site
        if site >= 0 and value >= marks[steps - 1].values and _reaches_back(tensor, marks[0].nodes, limit):
            return [KeptGraph(site, 1, True)]
    return []


def _reaches_back(tensor: Tensor, first: int, limit: int) -> bool:
    """Return True if the graph behind a tensor has nodes of recorded steps older than `limit`."""
    with without_torch_function():
        pending: list[Any] = [tensor.grad_fn]
    seen = set(pending)
    while pending:
        node = pending.pop()
        number = getattr(node, "_sequence_nr", None)
        if number is not None and first <= number() < limit:
            return True
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return False
