"""Python numbers that were added to a loss: whether they came from parameters, by way of ``.item()``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradlint.restore.preserved import Preserved
from gradlint.traces.op_families import SUMS

if TYPE_CHECKING:
    from gradlint.traces.trace import Op, Parameter, Trace


def added(trace: Trace, op: Op) -> float | None:
    """The Python number that an op adds to a scalar; None if it does anything else."""
    if op.name not in SUMS or len(op.outputs) != 1 or trace.values[op.outputs[0]].shape:
        return None
    return _number(op.args, op.kwargs)


def _number(args: Iterable[Any], kwargs: Mapping[str, Any] | None) -> float | None:
    given = [*args, *((kwargs or {}).get(name) for name in ("other", "input"))]
    return next((float(a) for a in given[:2] if isinstance(a, float)), None)


class _Added(TorchFunctionMode):
    """Notes the numbers that are added to scalars, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[float] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call."""
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in SUMS and isinstance(result, Tensor) and result.dim() == 0:
            number = _number(args, kwargs)
            if number is not None:
                self.seen.append(number)
        return result


def computed_from(trace: Trace, number: int, parameters: Iterable[Parameter]) -> bool:
    """Whether the number that an op adds changes with some parameters. False where that cannot be found out.

    Args:
        trace: a recording that is still open.
        number: the op's.
        parameters: those to move.
    """
    if trace.rerun is None:
        return False
    numbers = [n for n in range(trace.forward_start, len(trace.ops)) if added(trace, trace.ops[n]) is not None]
    with Preserved(trace.rerun.roots, trace.rerun.optimizers.values()) as preserved:
        preserved.save_all()
        try:
            first = _run(trace)
            if len(first) != len(numbers) or first != _run(trace):
                return False
            with torch.no_grad():
                for parameter in parameters:
                    noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.index))
                    parameter.tensor.data.add_(noise.to(parameter.tensor.device, parameter.tensor.dtype))
            moved = _run(trace)
        except Exception:  # the user's code, run with other weights, may raise anything
            return False
    place = numbers.index(number)
    return len(moved) == len(first) and moved[place] != first[place]


def _run(trace: Trace) -> list[float]:
    watch = _Added()
    trace.rerun.live(watch=watch)
    return watch.seen
