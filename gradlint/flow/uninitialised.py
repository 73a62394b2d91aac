"""Parameters whose memory nothing has written before training."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.traces.events import ParametersExchanged, ParameterWrite
from gradlint.traces.ids import ParameterKey
from gradlint.traces.trace import Parameter, Trace

_ZEROES = frozenset("zero_ zeros_".split())
_FILLS = {"fill_": "value", "constant_": "val"}
"""Function that writes one number → the name of that argument."""


def never_written(trace: Trace) -> Iterator[tuple[Parameter, ParametersExchanged | None]]:
    """Yield the parameters whose memory this run allocated and did not write before training.

    With each goes the conversion that allocated it, if one did.
    """
    exchanged = {new: e for e in trace.events_of(ParametersExchanged) for _, new in e.exchanged if e.how == "to_empty"}
    zeroed = _all_zero(trace, exchanged)
    for parameter in trace.parameters:
        if not parameter.numel or not parameter.in_tree or _is_written_before_backward(trace, parameter):
            continue
        if parameter.key in zeroed:
            yield parameter, exchanged[parameter.key]
        elif parameter.is_allocated and not _writes(trace, parameter):
            yield parameter, exchanged.get(parameter.key)


def _is_written_before_backward(trace: Trace, parameter: Parameter) -> bool:
    """Return True if user code wrote to a parameter before it trained, as a forward may."""
    if not parameter.written or trace.training is None:
        return parameter.written
    first = next((b.op for b in trace.training.backwards if parameter.key in b.deposits), None)
    return first is None or any(trace.forward_start < e.op < first for e in parameter.writes)


def _writes(trace: Trace, parameter: Parameter) -> list[ParameterWrite]:
    return [e for e in parameter.writes if e.op <= trace.forward_start]


def _all_zero(trace: Trace, exchanged: dict[ParameterKey, ParametersExchanged]) -> frozenset[ParameterKey]:
    """Return the parameters to which nothing but zeros was written after a conversion.

    That holds for all parameters of the conversion. One layer may start from zero; a network of several weights that
    does never trains.
    """
    by_event: dict[ParametersExchanged, list[Parameter]] = {}
    for parameter in trace.parameters:
        if parameter.key in exchanged and parameter.in_tree:
            by_event.setdefault(exchanged[parameter.key], []).append(parameter)
    return frozenset(
        p.key
        for members in by_event.values()
        if sum(len(p.shape) > 1 for p in members) > 1 and all(_is_zero(trace, p) for p in members)
        for p in members
    )


def _is_zero(trace: Trace, parameter: Parameter) -> bool:
    """Return True if zeros were written to a parameter, and nothing else."""
    writes = _writes(trace, parameter)
    return bool(writes) and all(
        e.op_name in _ZEROES or (e.op_name in _FILLS and trace.ops[e.op].argument(1, _FILLS[e.op_name]) == 0)
        for e in writes
    )
