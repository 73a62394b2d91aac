"""Explanations of single parameters: outcome, history, optimizer, path to the loss."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.engine.check import record_target
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.experiments.settle import analyse
from gradlint.flow.cut import Cut, region_location
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import OutcomeKind, optimizer_label, outcome_of
from gradlint.flow.paths import path_to_loss
from gradlint.location import Location
from gradlint.report.explanation import Explanation, Section, Step
from gradlint.rulekit.contract import matches, no_match
from gradlint.system.undo import leaving_nothing
from gradlint.traces.events import Freeze, ParameterEvent, ParameterRegistration, ParameterWrite, Unfreeze
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter, Trace
from gradlint.wording import count, shape_text

SHOWN = 12
"""Steps shown of a path to the loss; of a longer one the first and the last."""


@leaving_nothing
def explain(target: str, pattern: str, options: Options | None = None) -> list[Explanation]:
    """Explain the parameters of a target that a glob matches, in the model's order.

    The glob may match any of their names.

    Raises:
        TargetError: the target could not be recorded.
        UsageError: the pattern matches no parameter; the message names the nearest.
    """
    with record_target(target, options or Options()) as recorded:
        trace = recorded.trace
        wanted = [p for p in trace.parameters if matches(pattern, p.all_names)]
        if not wanted:
            raise UsageError(f"no parameter matches {pattern!r}: {no_match(trace, pattern)}")
        flow = analyse(trace, recorded.replay, terms=False)
        return [_explain(trace, flow, parameter) for parameter in wanted]


def _explain(trace: Trace, flow: Flow, parameter: Parameter) -> Explanation:
    noun = "parameter" if parameter.numel == 1 else "parameters"
    about = f"{shape_text(parameter.shape)}, {count(parameter.numel)} {noun}"
    others = [name for alias in parameter.aliases for name in (alias, *parameter.spelled(alias)[-1:])]
    if named := [name for name in dict.fromkeys(others) if name != parameter.fqn]:
        about += "; also named " + ", ".join(named)
    sections = [
        Section("history", _history(trace, parameter)),
        Section("optimizer", _optimizer(trace, parameter)),
        Section("path to the loss" if trace.loss_given else "path to the output", _path(trace, flow, parameter)),
    ]
    return Explanation(parameter.fqn, _state(flow, parameter), about, [s for s in sections if s.steps])


def _state(flow: Flow, parameter: Parameter) -> str:
    outcome = outcome_of(flow, parameter)
    match outcome.kind:
        case OutcomeKind.TRAINS:
            why = "gradient reaches it" + ("" if parameter.groups else " (no optimizer given)")
        case OutcomeKind.FROZEN:
            why = "requires_grad is False"
        case OutcomeKind.NO_GRADIENT:
            why = "the loss depends on it, and no gradient returns"
        case OutcomeKind.UNUSED:
            why = "the loss does not depend on it"
        case OutcomeKind.NOT_IN_OPTIMIZER if parameter.index in flow.reached:
            why = "gradient reaches it, and no optimizer holds it"
        case _:
            why = outcome.why
    return f"{outcome.kind.value}: {why}"


def _history(trace: Trace, parameter: Parameter) -> list[Step]:
    steps: list[Step] = []
    registered: Location | None = None
    for event in parameter.history:
        where = trace.location(event.site)
        if where is None or (isinstance(event, ParameterWrite) and where == registered):
            continue  # the second: a layer that initialises itself while it is made
        if isinstance(event, ParameterRegistration):
            registered = where
        step = Step(_event_text(trace, event), where, event is parameter.frozen_by)
        if step not in steps:
            steps.append(step)
    if not steps:
        where = trace.location(trace.modules[parameter.module].registered_at)
        if where is not None:
            steps.append(Step("its module is registered in the model", where))
    if parameter.copied_from:
        names = ", ".join(trace.parameters[i].fqn for i in sorted(parameter.copied_from)[:3])
        steps.append(Step(f"its value was copied from {names}"))
    if not parameter.requires_grad and parameter.frozen_by is None:
        steps.append(Step("created with requires_grad=False"))
    return steps


def _event_text(trace: Trace, event: ParameterEvent) -> str:
    match event:
        case ParameterWrite():
            late = event.op >= trace.forward_start
            return f"{'written in the forward' if late else 'written'} ({event.op_name})"
        case ParameterRegistration():
            return "registered"
        case Freeze():
            return "frozen"
        case Unfreeze():
            return "unfrozen"


def _optimizer(trace: Trace, parameter: Parameter) -> list[Step]:
    steps: list[Step] = []
    for number, index in parameter.groups:
        optimizer = trace.optimizers[number]
        group = optimizer.groups[index]
        which = f", group {index}" if len(optimizer.groups) > 1 else ""
        rate = "" if group.lr is None else f", lr {group.lr:g}" + (" (scheduled)" if group.scheduled else "")
        still = group.lr == 0 and not group.scheduled
        steps.append(Step(f"{optimizer_label(optimizer)}{which}{rate}", trace.location(group.site), still))
    if trace.optimizers and not steps:
        for optimizer in trace.optimizers:
            steps.append(Step(f"not in {optimizer.type}", trace.location(optimizer.site), parameter.requires_grad))
    return steps


def _path(trace: Trace, flow: Flow, parameter: Parameter) -> list[Step]:
    readers = flow.readers(parameter)
    if not readers:
        return [Step("no operation of the forward uses it")]
    cuts = [cut for cut in flow.cuts if parameter in cut.starved]
    is_unused = parameter.requires_grad and parameter.index in flow.unused
    steps: list[Step] = []
    is_reached = parameter.requires_grad and parameter.index in flow.reached
    path = path_to_loss(trace, parameter, readers[0], by_gradient=is_reached)
    for run in _runs(trace, path, cuts):
        op = trace.ops[run[0]]
        cut = _cut_at(trace, cuts, op)
        text = _in_words(trace, run)
        if cut is not None:
            cuts.remove(cut)
            text += ": gradient stops here"
        elif run[-1] == path[-1] and not is_unused:
            text += ": the loss" if trace.loss_given else ": the output"
        steps.append(Step(text, cut.location if cut is not None else _place(trace, op), cut is not None))
    steps = _shortened(steps)
    steps += [Step(f"gradient stops here too ({cut.name})", cut.location, True) for cut in cuts]
    if not parameter.requires_grad:
        region = next((trace.ops[n].region for n in readers if trace.ops[n].region >= 0), None)
        if region is not None:
            steps.append(Step("runs with grad mode off", region_location(trace, trace.region(region))))
    dropped = flow.dropped_at(parameter) if is_unused else None
    if dropped is not None:
        steps.append(Step(f"{dropped.name}: its result is not used", trace.location(dropped.site), True))
    return steps


def _runs(trace: Trace, path: Sequence[int], cuts: Sequence[Cut]) -> list[list[int]]:
    """Return the ops of a path; ops that one user line made inside a library are together."""
    runs: list[list[int]] = []
    for number in path:
        op = trace.ops[number]
        alone = _cut_at(trace, cuts, op) is not None
        before = trace.ops[runs[-1][-1]] if runs else None
        if before is None or alone or _cut_at(trace, cuts, before) or not _same_call(trace, op, before):
            runs.append([number])
        else:
            runs[-1].append(number)
    return [part for run in runs for part in ([run] if len(run) > 3 else [[n] for n in run])]


def _place(trace: Trace, op: Op) -> Location | None:
    """Return the user line of an op; None if only lines of libraries lead to it."""
    frame = trace.frame(op.site)
    return frame.location if frame is not None and frame.project else None


def _same_call(trace: Trace, one: Op, other: Op) -> bool:
    """Return True if one call in user code led to both ops, or none did."""
    frames = [f if (f := trace.frame(op.site)) is not None and f.project else None for op in (one, other)]
    return frames[0] is frames[1]  # frames of the same instruction are one object; two calls may share a line


def _in_words(trace: Trace, run: Sequence[int]) -> str:
    names = [trace.ops[n].name for n in run]
    modules = [m.fqn.split(".") if (m := trace.module_of(trace.ops[n])) is not None else [] for n in run]
    shared = ".".join(part[0] for part in zip(*modules, strict=False) if len(set(part)) == 1)
    text = names[0] if len(run) == 1 else f"{names[0]} ... {names[-1]}, {len(run)} operations"
    return f"{text} in {shared}" if shared else text


def _shortened(steps: list[Step]) -> list[Step]:
    """Return the first and last of many steps, and all important ones."""
    if len(steps) <= SHOWN:
        return steps
    first, last = range(SHOWN - 4), range(len(steps) - 3, len(steps))
    shown = [s for i, s in enumerate(steps) if i in first or i in last or s.important]
    between = Step(f"... {len(steps) - len(shown)} more steps ...")
    return [*shown[: SHOWN - 4], between, *shown[SHOWN - 4 :]]


def _cut_at(trace: Trace, cuts: Sequence[Cut], op: Op) -> Cut | None:
    where = trace.location(op.site)
    return next((cut for cut in cuts if where is not None and cut.location == where and cut.name == op.name), None)
