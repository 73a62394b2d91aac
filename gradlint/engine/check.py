"""Check and trace: the engine as a library. Never prints, never exits."""

from __future__ import annotations

import ast
import contextlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradlint.engine.notes import notes, nothing_to_judge, trains_nothing
from gradlint.engine.options import Options
from gradlint.engine.source_of_recording import source_findings
from gradlint.errors import GradlintError, TargetError, torch_missing
from gradlint.experiments.settle import analyse
from gradlint.findings import Failure, Finding, Fix, Note, Report, Severity, Skipped, TargetSummary, sorted_findings
from gradlint.flow.evidence import Evidence
from gradlint.flow.flow import Flow
from gradlint.flow.flow_map import flow_map
from gradlint.flow.outcome import OutcomeKind, kind_of, optimizer_label
from gradlint.flow.overview import overview
from gradlint.load.buildable import Buildable, SetupAtHand, TargetOnDisk
from gradlint.rulekit.context import Context
from gradlint.rulekit.contract import DeclarationKind, own_declarations
from gradlint.rulekit.executed_code import executed_functions
from gradlint.rulekit.precedence import in_order, run
from gradlint.rulekit.rule import ON_REQUEST, Rule
from gradlint.source.intent import proposed_contract
from gradlint.system.undo import leaving_nothing
from gradlint.wording import summarize_names

if TYPE_CHECKING:
    from gradlint.recorder.replay import Recorded, Replay
    from gradlint.rulekit.contract import Contract
    from gradlint.traces.trace import Trace


@leaving_nothing
def check_target(target: str, rules: Sequence[type[Rule]], options: Options | None = None, name: str = "") -> Report:
    """Record a target and judge it by `rules`; a fault of user code is in `Report.errors`.

    `name` is the target's name in the report, if it is another.
    """
    with _reporting(name or target) as report:
        options = options or Options()
        buildable = TargetOnDisk.named(target, options.arguments)
        _check(report, buildable, rules, options, name or target)
        if skipped := buildable.what_is_skipped():
            report.notes.append(Note(name or target, skipped))
    return report


@leaving_nothing
def check_setup(
    setup: Any, rules: Sequence[type[Rule]], options: Options | None = None, name: str = "<setup>"
) -> Report:
    """Record a training setup, or the function that builds it, and judge it.

    Only a function gives the lines of the build.
    """
    with _reporting(name) as report:
        _check(report, SetupAtHand(setup, name), rules, options or Options(), name)
    return report


def check_trace(
    trace: Trace, rules: Sequence[type[Rule]], options: Options | None = None, evidence: Evidence | None = None
) -> Report:
    """Judge a trace by `rules`, with evidence gathered while its recording was open."""
    options = options or Options()
    with _reporting(trace.target) as report:
        if trace.fault is not None:
            raise TargetError(*trace.fault)
        flow = analyse(trace, None, numeric=options.numeric) if evidence is None else Flow(trace, evidence)
        texts = _judged(report, flow, rules, options)
        report.notes += [Note(trace.target, text) for text in texts]
    return report


@contextlib.contextmanager
def record_target(target: str, options: Options, name: str = "") -> Iterator[Recorded]:
    """Record a target; see `gradlint.recorder.session.recording`."""
    with _recording(TargetOnDisk.named(target, options.arguments), options, name or target) as recorded:
        yield _whole(recorded)


@contextlib.contextmanager
def record_made(setup: Any, options: Options, name: str = "<setup>") -> Iterator[Recorded]:
    """Record a training setup, or a build function, which is called under the recorder."""
    with _recording(SetupAtHand(setup, name), options, name) as recorded:
        yield _whole(recorded)


def _whole(recorded: Recorded) -> Recorded:
    """Return a recording.

    Raises:
        TargetError: a later call of the setup's step raised.
    """
    if recorded.failure is not None:
        raise recorded.failure
    return recorded


def _recording(buildable: Buildable, options: Options, name: str) -> contextlib.AbstractContextManager[Recorded]:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise torch_missing(error) from error
    from gradlint.load.inputs.find import parse_inputs
    from gradlint.recorder.session import recording

    inputs = parse_inputs(options.inputs) if options.inputs else None
    return recording(name, buildable, inputs, options.amend)


@contextlib.contextmanager
def _reporting(target: str) -> Iterator[Report]:
    """Yield a report, and put into it whatever keeps the block from being finished."""
    report = Report()
    try:
        yield report
    except TargetError as error:
        report.errors.append(Failure(target, str(error), error.traceback))
    except GradlintError as error:
        report.errors.append(Failure(target, str(error)))


def _check(report: Report, buildable: Buildable, rules: Sequence[type[Rule]], options: Options, name: str) -> None:
    """Load, record, analyse and judge: the main line."""
    started = time.perf_counter()
    with _recording(buildable, options, name) as recorded:
        flow = analyse(recorded.trace, recorded.replay, numeric=options.numeric)
        failure = recorded.failure
        try:
            texts = _judged(report, flow, rules, options)
        except TargetError as error:
            raise failure or error from None
        if options.cost:
            texts += _measure(report, flow, recorded.replay)
    if failure is not None:
        report.errors.append(Failure(name, str(failure), failure.traceback))
        report.ran = {}  # what a comment silences may come later
    if recorded.unrestored:
        texts.append("could not be put back as it was: " + ", ".join(recorded.unrestored[:3]))
    report.notes += [Note(name, text) for text in texts]
    seconds = round(time.perf_counter() - started, 3)
    report.targets = [replace(summary, seconds=seconds) for summary in report.targets]


def _measure(report: Report, flow: Flow, replay: Replay | None) -> list[str]:
    """Add to findings what their fixes save; return a note if it cannot be measured."""
    from gradlint.experiments.savings import with_savings  # imports torch

    try:
        report.findings = with_savings(report.findings, flow, replay)
    except TargetError as error:
        return [str(error)]
    return []


def _judged(report: Report, flow: Flow, rules: Sequence[type[Rule]], options: Options) -> list[str]:
    """Add the verdict on a trace to a report; return the notes about it."""
    trace = flow.trace
    context = _judge(report, trace, flow, rules, options)
    skipped = {s.code for s in report.skipped}
    more, report.ran = source_findings(trace, rules, report.findings, skipped, options.files)
    report.findings = sorted_findings([*report.findings, *more])
    _account_for_the_unseen(report, trace, flow, options.strict)
    if options.overview:
        report.overviews.append(overview(flow))
    if options.flow_map:
        report.maps.append(flow_map(flow))
    problem = nothing_to_judge(trace) or trains_nothing(trace)
    if problem and not any(f.severity > Severity.INFO for f in report.findings):
        raise TargetError(problem)
    held = any("contract" in rule.needs for rule in rules)
    report.targets.append(summarize(trace, flow, context.contract if held else None))
    gradients = flow.evidence.gradients
    failure = gradients.failure if gradients is not None else ""
    return [*trace.notes, *([f"no gradient was measured: {failure}"] if failure else []), *notes(flow)]


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
    report.spellings |= {(trace.target, alias): names for p in trace.parameters for alias, names in p.spellings.items()}
    return context


def _account_for_the_unseen(report: Report, trace: Trace, flow: Flow, strict: bool) -> None:
    """Report the parts that could not be recorded or decided.

    They are notes, or findings with `strict`.
    """
    seen: dict[tuple[str, Any], Note] = {}
    for what, site in trace.unrecorded:
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
    parameters = [p for p in trace.parameters if p.in_tree]
    kind_by_fqn = {p.fqn: kind_of(flow, p) for p in parameters}
    kinds = Counter(kind_by_fqn.values())
    parts = _parts(kind_by_fqn)
    declared = contract is not None and bool(contract.declarations)
    return TargetSummary(
        target=trace.target,
        inputs=trace.inputs_described,
        loss=trace.loss_described,
        parameters=len(parameters),
        trainable=len(parameters) - kinds[OutcomeKind.FROZEN],
        frozen=kinds[OutcomeKind.FROZEN],
        starved=kinds[OutcomeKind.NO_GRADIENT],
        unused=kinds[OutcomeKind.UNUSED],
        reached=kinds[OutcomeKind.TRAINS],
        numel=sum(p.numel for p in parameters),
        optimizers=tuple((optimizer_label(o), sum(len(g.keys) for g in o.groups)) for o in trace.optimizers),
        declared=tuple(len(contract.declared(kind, trace)) for kind in DeclarationKind)
        if contract is not None
        else (0, 0),
        not_in_optimizer=kinds[OutcomeKind.NOT_IN_OPTIMIZER],
        zero_rate=kinds[OutcomeKind.ZERO_LR],
        parts=parts,
        proposed=((), ()) if declared else _proposed(trace, [name for name, _ in parts]),
    )


def _parts(kind_by_fqn: Mapping[str, OutcomeKind]) -> tuple[tuple[str, str], ...]:
    """Return (name, outcomes in words) of each top-level part; empty if there is one alone."""
    by_part: dict[str, Counter[OutcomeKind]] = {}
    for fqn, kind in kind_by_fqn.items():
        by_part.setdefault(fqn.partition(".")[0], Counter())[kind] += 1
    if len(by_part) < 2:
        return ()
    return tuple(
        (part, ", ".join(f"{count} {kind.plural}" for kind, count in kinds.items())) for part, kinds in by_part.items()
    )


def _proposed(trace: Trace, parts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the patterns for a contract that names suggest: those to freeze, those to train.

    They are the names of the parts and of arguments of executed code.
    """
    nodes = (function.node for function in executed_functions(trace)) if parts else ()
    flags = {a.arg for n in nodes if isinstance(n, ast.FunctionDef) for a in (*n.args.args, *n.args.kwonlyargs)}
    frozen, trains = proposed_contract(parts, flags)
    return tuple(frozen), tuple(trains)
