"""Answers the open questions of a flow by running the setup again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradlint.flow.evidence import Evidence, LossEffect, Questions
from gradlint.flow.flow import Flow
from gradlint.traces.ids import ParameterIndex
from gradlint.traces.trace import Trace

if TYPE_CHECKING:
    from gradlint.recorder.replay import Replay

_MOST_RUNS = 40
"""Bound on the runs of one experiment."""
_MANY_GROUPS = 4
_OTHER_SEED = 1
"""A seed unlike that of a run."""
_STRENGTH = ("reaches", "unknown", "steers", "no_evidence")
"""The outcomes: what holds of a group is the first that holds of a member."""


def analyse(trace: Trace, replay: Replay | None, *, terms: bool = True, numeric: bool = False) -> Flow:
    """Return the flow of a trace, with its open questions answered as far as possible.

    Args:
        trace: a recording.
        replay: runs its setup again; None where that is not possible.
        terms: whether the questions about terms of the loss are answered as well.
        numeric: whether a few steps are trained, to measure the gradients.
    """
    flow = Flow(trace)
    questions = flow.open_questions(terms=terms)
    evidence = answer(questions, trace, replay) if replay is not None and questions != Questions() else Evidence()
    if numeric:
        from gradlint.experiments.gradient_size import measure

        evidence = replace(evidence, gradients=measure(trace, replay, flow.judged))
    return flow if evidence == Evidence() else flow.with_evidence(evidence)


def answer(questions: Questions, trace: Trace, replay: Replay) -> Evidence:
    """Return the answers to the questions of a flow, each found by its own runs."""
    from gradlint.experiments.scalar_terms import source_of

    groups = _effects_of_groups(trace, replay, questions.groups)
    parameters = _perturbed(trace, replay, questions.parameters, apart=True) if questions.parameters else {}
    sources = {number.op: source_of(number, trace, replay) for number in questions.numbers}
    return Evidence(groups, parameters, {op: source for op, source in sources.items() if source is not None})


def _effects_of_groups(
    trace: Trace, replay: Replay, groups: Sequence[tuple[ParameterIndex, ...]]
) -> dict[tuple[ParameterIndex, ...], LossEffect]:
    """Return the effect of changing the parameters of each group.

    Many groups are changed all at once first: mostly nothing moves, and each group by itself need not be run.
    """
    if len(groups) > _MANY_GROUPS:
        together = _perturbed(trace, replay, [index for members in groups for index in members], apart=False)
        if all(effect.outcome == "no_evidence" for effect in together.values()):
            return {members: together[members[0]] for members in groups}
    effects = ((members, _perturbed(trace, replay, members, apart=False)) for members in groups)
    return {members: min(found.values(), key=lambda e: _STRENGTH.index(e.outcome)) for members, found in effects}


def _perturbed(
    trace: Trace, replay: Replay, members: Sequence[ParameterIndex], *, apart: bool
) -> dict[ParameterIndex, LossEffect]:
    """Return the effect of changing parameters: each by itself, or all of them together."""
    from gradlint.experiments.perturb import find_effects
    from gradlint.experiments.run_path import RunPath

    tensors = {p.fqn: replay.tensors[p.key] for p in trace.parameters}
    names = {index: trace.parameters[index].fqn for index in members}
    path = RunPath(replay.tensors.keys())
    effects = find_effects(
        lambda: replay(path),
        tensors,
        list(names.values()),
        max_runs=_MOST_RUNS,
        apart=apart,
        path=path.taken,
        reseeded=lambda: replay(path, _OTHER_SEED),
        undo=replay.undo,
    )
    return {index: effects[name] for index, name in names.items()}
