"""Check and trace: the engine as a library. Never prints, never exits."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from gradlint.engine.notes import notes, nothing_to_judge
from gradlint.engine.options import Options
from gradlint.engine.source_of_recording import source_findings
from gradlint.errors import GradlintError, TargetError, torch_missing
from gradlint.experiments.settle import analyse
from gradlint.findings import Failure, Finding, Fix, Note, Report, Severity, Skipped, TargetSummary, sorted_findings
from gradlint.flow.evidence import Evidence
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import titled
from gradlint.load.build import Target, call_build
from gradlint.load.setup import normalize
from gradlint.load.target import loaded, parse_target
from gradlint.rulekit.context import Context
from gradlint.rulekit.contract import DeclarationKind, own_declarations
from gradlint.rulekit.precedence import in_order, run
from gradlint.rulekit.rule import ON_REQUEST, Rule
from gradlint.wording import summarize_names

if TYPE_CHECKING:
    from gradlint.recorder.replay import Recorded
    from gradlint.rulekit.contract import Contract
    from gradlint.traces.trace import Trace


def check_target(target: str, rules: Sequence[type[Rule]], options: Options | None = None, name: str = "") -> Report:
    """Record a target and judge it by `rules`. What goes wrong in the user's code is in `Report.errors`.

    `name` is what the report calls it, where that is not `target`.
    """
    options = options or Options()
    return _check(name or target, rules, options, lambda: record_target(target, options, name))


def check_setup(
    setup: Any, rules: Sequence[type[Rule]], options: Options | None = None, name: str = "<setup>"
) -> Report:
    """Judge what a build() returns, or a build function itself; in the latter case lines of the build are known."""
    options = options or Options()
    return _check(name, rules, options, lambda: record_made(setup, options, name))


@contextlib.contextmanager
def record_target(target: str, options: Options, name: str = "") -> Iterator[Recorded]:
    """Record a target; see `gradlint.recorder.session.recording`."""
    parsed = parse_target(target)
    if parsed.attribute is None:
        raise TargetError(f"{target} names no attribute: write {target}:build")

    def make(stack: contextlib.ExitStack) -> Any:
        found = stack.enter_context(loaded(parsed))
        return call_build(found, parsed, stack)

    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise torch_missing(error) from error
    with _recording(name or target, make, options, parsed.label) as recorded:
        yield recorded


@contextlib.contextmanager
def record_made(setup: Any, options: Options, name: str = "<setup>") -> Iterator[Recorded]:
    """Record what a build() returns, or a build function, which is then called under the recorder."""
    import torch

    builds = callable(setup) and not isinstance(setup, torch.nn.Module)

    def make(stack: contextlib.ExitStack) -> Any:
        return call_build(setup, Target(name, attribute=name), stack) if builds else setup

    with _recording(name, make, options, f"{name}()" if builds else name) as recorded:
        yield recorded


def _recording(
    target: str, make: Callable[[contextlib.ExitStack], Any], options: Options, label: str
) -> contextlib.AbstractContextManager[Recorded]:
    from gradlint.recorder.session import recording

    given: Callable[[Any], Any] | None = None
    if options.inputs:
        from gradlint.load.inputs.find import Inputs, parse_inputs

        spec = parse_inputs(options.inputs)

        def given(_: Any) -> Any:
            return Inputs(*spec.materialize(), "given by --input")

    def amended(stack: contextlib.ExitStack) -> Any:
        made = make(stack)
        return made if options.amend is None else options.amend(normalize(made, label))

    return recording(target, amended, given, label)


def _check(
    target: str,
    rules: Sequence[type[Rule]],
    options: Options,
    open_recording: Callable[[], contextlib.AbstractContextManager[Recorded]],
) -> Report:
    report = Report()
    started = time.perf_counter()
    try:
        with open_recording() as recorded:
            flow = analyse(recorded.trace, recorded.replay, numeric=options.numeric)
            texts = _judged(report, flow, rules, options)
        if recorded.unrestored:
            texts.append("could not be put back as it was: " + ", ".join(recorded.unrestored[:3]))
        report.notes += [Note(target, text) for text in texts]
    except TargetError as error:
        report.errors.append(Failure(target, str(error), error.traceback))
    except GradlintError as error:
        report.errors.append(Failure(target, str(error)))
    seconds = time.perf_counter() - started
    report.targets = [_timed(t, seconds) for t in report.targets]
    return report


def check_trace(
    trace: Trace, rules: Sequence[type[Rule]], options: Options | None = None, evidence: Evidence | None = None
) -> Report:
    """Judge a trace by `rules`, in the light of evidence that was gathered while its recording was open."""
    report = Report()
    options = options or Options()
    try:
        if trace.fault is not None:
            raise TargetError(*trace.fault)
        flow = analyse(trace, None, numeric=options.numeric) if evidence is None else Flow(trace, evidence)
        texts = _judged(report, flow, rules, options)
        report.notes += [Note(trace.target, text) for text in texts]
    except TargetError as error:
        report.errors.append(Failure(trace.target, str(error), error.traceback))
    return report


def _judged(report: Report, flow: Flow, rules: Sequence[type[Rule]], options: Options) -> list[str]:
    """Add the verdict on a trace to a report; return the notes about it."""
    trace = flow.trace
    context = _judge(report, trace, flow, rules, options)
    more, report.ran = source_findings(trace, rules, report.findings, {s.code for s in report.skipped})
    report.findings = sorted_findings([*report.findings, *more])
    _account_for_the_unseen(report, trace, flow, options.strict)
    problem = nothing_to_judge(trace)
    if problem and not report.findings:
        raise TargetError(problem)
    held = any("contract" in rule.needs for rule in rules)
    report.targets.append(summarize(trace, flow, context.contract if held else None))
    gradients = flow.evidence.gradients
    failure = gradients.failure if gradients is not None else ""
    return [*trace.notes, *([f"no gradient was measured: {failure}"] if failure else []), *notes(trace)]


def _judge(report: Report, trace: Trace, flow: Flow, rules: Sequence[type[Rule]], options: Options) -> Context:
    own = own_declarations(trace) if options.own_contract else []
    context = Context(trace, flow, [*own, *options.contract])
    findings = []
    for rule in in_order(rules):
        if not rule.judges_recordings():
            continue
        missing = next(((need, reason) for need in sorted(rule.needs) if (reason := context.has(need))), None)
        if missing is not None:
            need, reason = missing
            report.skipped.append(Skipped(trace.target, rule.code, reason, asked=need not in ON_REQUEST))
        else:
            findings += run(rule(), context)
    report.findings += sorted_findings(findings)
    return context


def _account_for_the_unseen(report: Report, trace: Trace, flow: Flow, strict: bool) -> None:
    """Say what could not be recorded or decided: as notes or, where the user is strict, as findings."""
    seen: dict[tuple[str, Any], Note] = {}
    for what, site in trace.unseen:
        note = Note(trace.target, f"not recorded: {what}", "GL003", trace.location(site))
        seen.setdefault((what, note.location), note)
    if flow.undecided:
        names = summarize_names(flow.by_index(flow.undecided), trace.parameters)
        text = f"not decided: values of {names} left torch, and {flow.why_undecided}"
        seen[text, None] = Note(trace.target, text, "GL003")
    if not strict:
        report.notes += seen.values()
        return
    report.findings += [
        Finding(
            target=note.target,
            code=note.code,
            name="partial-recording",
            severity=Severity.WARNING,
            message=note.message,
            location=note.location,
            fix=Fix("Check this part by hand, or leave out --strict, which makes a note of it."),
        )
        for note in seen.values()
    ]


def summarize(trace: Trace, flow: Flow, contract: Contract | None = None) -> TargetSummary:
    """Count what becomes of the parameters of a recorded training setup."""
    mine = [p for p in trace.parameters if p.in_tree]
    trainable = [p for p in mine if p.requires_grad]
    return TargetSummary(
        target=trace.target,
        inputs=trace.inputs_described,
        loss=trace.loss_described,
        parameters=len(mine),
        trainable=len(trainable),
        frozen=len(mine) - len(trainable),
        starved=len(flow.starved),
        unused=len(flow.unused) if trace.roots or len(trace.ops) > trace.forward_start else 0,
        reached=sum(p.index in flow.reached for p in trainable),
        numel=sum(p.numel for p in mine),
        optimizers=tuple((titled(o), sum(len(g.keys) for g in o.groups)) for o in trace.optimizers),
        declared=tuple(len(contract.declared(kind, trace)) for kind in DeclarationKind)
        if contract is not None
        else (0, 0),
    )


def _timed(summary: TargetSummary, seconds: float) -> TargetSummary:
    import dataclasses

    return dataclasses.replace(summary, seconds=round(seconds, 3))
