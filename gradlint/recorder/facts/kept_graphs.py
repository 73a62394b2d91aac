"""Tensors whose autograd graphs outlive the step that made them."""

from __future__ import annotations

import collections
import gc
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.unregistered import within
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_stale_view
from gradlint.traces.dataflow import ancestors
from gradlint.traces.ids import OptimizerKey, SiteId, ValueId
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


def find_kept_graphs(
    recorder: Recorder, training: TrainingLog, marks: Sequence[StepMark], log: HookLog
) -> tuple[KeptGraph, ...]:
    """Return the graphs that are alive two rounds after their own.

    These are tensors of one place from each of several rounds (a list of losses that grows), or one tensor whose graph
    reaches back through the rounds (a running sum). What a variable still holds from an earlier round does not count.
    Nothing is reported if a graph was retained on purpose.

    Args:
        recorder: what recorded the steps.
        training: the steps.
        marks: the mark of the start, and of each step.
        log: what the hooks noted. It keeps every module alive, and with it what that holds.
    """
    rounds = _rounds(training, marks)
    if len(rounds) < 4 or any(b.retains for b in training.backwards):
        return ()
    if not _found(recorder, rounds, frozenset()):
        return ()
    gc.collect()  # what only waits for the collector is not kept
    return tuple(_found(recorder, rounds, _held_by_new(training, log)))


def _held_by_new(training: TrainingLog, log: HookLog) -> frozenset[int]:
    """Return the identities of what modules hold that ran after the first step only."""
    first = training.steps[0].op
    earlier = {call.module for call in log.calls if call.start < first}
    seen: set[int] = set()
    for number in dict.fromkeys(call.module for call in log.calls):
        if number not in earlier:
            for value in list(vars(log.modules[number]).values()):
                collections.deque(within(value, "", seen), maxlen=0)
    return frozenset(seen)


def _rounds(training: TrainingLog, marks: Sequence[StepMark]) -> list[StepMark]:
    """Return the marks of the start and of each step of the optimizer that steps most rarely.

    It steps three times at least. The steps of the other optimizers are parts of its round: what lives through them may
    be a variable of the round.
    """
    ends: dict[OptimizerKey, list[StepMark]] = {}
    for step, end in zip(training.steps, marks[1:], strict=False):
        ends.setdefault(step.optimizers[0], []).append(end)
    rounds = min((own for own in ends.values() if len(own) >= 3), key=len, default=[])
    return [*marks[:1], *rounds]


def _found(recorder: Recorder, marks: Sequence[StepMark], held: frozenset[int]) -> list[KeptGraph]:
    tape = recorder.tape
    alive: list[tuple[ValueId, Tensor]] = []
    for entry in list(recorder.tensors.tracked.values()):
        tensor = entry()
        if tensor is None or entry.value < marks[0].values or id(tensor) in held:
            continue
        with without_torch_function():
            if not is_stale_view(tensor) and tensor.grad_fn is not None and tape.values[entry.value].producer >= 0:
                alive.append((entry.value, tensor))
    return _growing(recorder, alive, marks) or _summed(recorder, alive, marks)


def _growing(recorder: Recorder, alive: list[tuple[ValueId, Tensor]], marks: Sequence[StepMark]) -> list[KeptGraph]:
    """Return the places of which a tensor of each round is alive, since an early round.

    A place is a whole call chain.
    """
    steps = len(marks) - 1
    tape = recorder.tape
    places: dict[SiteId, dict[int, ValueId]] = {}
    for value, _ in alive:
        window = next((w for w in range(steps) if value < marks[w + 1].values), steps)
        if window < steps:
            places.setdefault(tape.ops[tape.values[value].producer].site, {})[window] = value
    lines: dict[tuple[Any, int], dict[int, ValueId]] = {}
    for site, windows in places.items():
        if site >= 0 and min(windows) <= steps - 3 and len(windows) == steps - min(windows):
            del windows[steps - 1]
            lines.setdefault(tape.sites.rows[site][:2], {}).update(windows)
    last = {line: max(windows.values()) for line, windows in lines.items()}
    graphs = []
    for line, value in last.items():
        others = [v for v in last.values() if v > value]
        if others and value in ancestors(tape.ops[: tape.values[max(others)].producer + 1], others):
            continue  # the tensor that holds it is reported
        graphs.append(KeptGraph(tape.ops[tape.values[value].producer].site, len(lines[line]), False))
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
