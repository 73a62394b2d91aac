"""Measures what is saved if parameters are frozen that get gradient for nothing: each finding's by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradlint.errors import TargetError
from gradlint.experiments.step_cost import measure_step
from gradlint.findings import Finding, Saved
from gradlint.flow.cost import Cost, Measured, Saving
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import OutcomeKind, kind_of
from gradlint.traces.ids import ParameterIndex
from gradlint.traces.trace import Parameter
from gradlint.wording import summarize_names

if TYPE_CHECKING:
    from gradlint.recorder.replay import Replay

_WASTED = {
    OutcomeKind.NOT_IN_OPTIMIZER: "no optimizer holds them",
    OutcomeKind.ZERO_LR: "their learning rate is 0",
}
"""Outcome of parameters that get gradient for nothing → the reason in words."""


def savings(flow: Flow, replay: Replay, measured: Measured, findings: Iterable[Finding]) -> tuple[Saving, ...]:
    """Return what each finding's fix saves, and what freezing the rest saves, largest first.

    Raises:
        TargetError: the setup cannot be run again.
    """
    wasted = _wasted(flow)
    groups: list[tuple[Finding | None, list[Parameter]]] = []
    told: set[ParameterIndex] = set()
    for finding in findings:
        hit = (flow.trace.by_fqn.get(name) for name in finding.parameters)
        parameters = list({p.index: p for p in hit if p is not None and p.index in wasted}.values())
        if parameters and not told.issuperset(p.index for p in parameters):
            told.update(p.index for p in parameters)
            groups.append((finding, parameters))
    for kind in _WASTED:
        rest = [flow.trace.parameters[i] for i, other in wasted.items() if other is kind and i not in told]
        groups += [(None, rest)] if rest else []
    found = [_saving(flow, replay, measured, _WASTED[wasted[ps[0].index]], ps, f) for f, ps in groups]
    return tuple(sorted(found, key=lambda saving: (-saving.saved.bytes, -saving.saved.flops)))


def with_savings(findings: Sequence[Finding], flow: Flow, replay: Replay | None) -> list[Finding]:
    """Return findings with what their fixes save, where that can be measured.

    Raises:
        TargetError: the setup cannot be run again.
    """
    if not any(name in flow.trace.by_fqn for finding in findings for name in finding.parameters):
        return list(findings)
    wasted = _wasted(flow)
    if not wasted:
        return list(findings)
    if replay is None:
        raise TargetError("what the fixes save is not measured: the setup is not run again")
    found = savings(flow, replay, measure_step(flow.trace, replay), findings)
    by_finding = {id(saving.finding): saving.saved for saving in found if saving.finding is not None}
    return [replace(f, saving=_saved(by_finding[id(f)])) if id(f) in by_finding else f for f in findings]


def _wasted(flow: Flow) -> dict[ParameterIndex, OutcomeKind]:
    """Return the parameters that gradient reaches and no optimizer moves, with their outcome."""
    trace = flow.trace
    reached = [p for p in trace.parameters if p.index in flow.reached] if trace.optimizers else []
    kinds = {parameter.index: kind_of(flow, parameter) for parameter in reached}
    return {index: kind for index, kind in kinds.items() if kind in _WASTED}


def _saving(
    flow: Flow,
    replay: Replay,
    measured: Measured,
    reason: str,
    parameters: Sequence[Parameter],
    finding: Finding | None,
) -> Saving:
    frozen = measure_step(flow.trace, replay, [p.index for p in parameters])
    names = summarize_names(parameters, flow.trace.parameters)
    return Saving(reason, names, tuple(p.fqn for p in parameters), measured.total - frozen.total, finding)


def _saved(cost: Cost) -> Saved:
    return Saved(cost.activations, cost.gradients, cost.optimizer, cost.flops)
