"""Python numbers that were added to a loss: whether they came from parameters, by way of ``.item()``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradlint.flow.evidence import AddedNumber
from gradlint.flow.summands import added_number, first_number
from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import OpIndex, ParameterIndex
from gradlint.traces.op_families import SUMS
from gradlint.traces.trace import Trace

if TYPE_CHECKING:
    from gradlint.recorder.replay import Replay


class _Added(TorchFunctionMode):
    """Notes the numbers that are added to scalars, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call."""
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in SUMS and isinstance(result, Tensor) and result.dim() == 0:
            number = first_number(args, kwargs)
            if number is not None:
                self.seen.append(number)
        return result


def source_of(number: AddedNumber, trace: Trace, replay: Replay) -> OpIndex | None:
    """Return the op by which a number in the loss left torch; None if no parameter changes it."""
    if not _changes_with(number.op, number.parameters, trace, replay):
        return None
    for leaving, parameters in number.exits:
        if _changes_with(number.op, parameters, trace, replay):
            return leaving
    return number.exits[0][0]


def _changes_with(number: OpIndex, parameters: Iterable[ParameterIndex], trace: Trace, replay: Replay) -> bool:
    """Return True if the number that an op adds changes with some parameters (indices).

    False if it is unknown.
    """
    numbers = [
        OpIndex(n) for n in range(trace.forward_start, len(trace.ops)) if added_number(trace, trace.ops[n]) is not None
    ]
    with replay.preserving() as preserved:
        preserved.save_all()
        try:
            first = _run(replay)
            if len(first) != len(numbers) or first != _run(replay):
                return False
            with torch.no_grad():
                for index in sorted(parameters):
                    tensor = replay.tensors[trace.parameters[index].key]
                    if not is_readable(tensor):
                        return False
                    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(index))
                    tensor.data.add_(noise.to(tensor.device, tensor.dtype))
            moved = _run(replay)
        except Exception:  # the user's code, run with other weights, may raise anything
            return False
    place = numbers.index(number)
    return len(moved) == len(first) and moved[place] != first[place]


def _run(replay: Replay) -> list[float]:
    watch = _Added()
    replay.live(watch=watch)
    return watch.seen
