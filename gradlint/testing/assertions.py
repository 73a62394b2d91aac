"""Assertions about gradient for tests; the text of a failure is a report.

Any test runner will do; `gradlint.testing.pytest_plugin` hands an instance to pytest's tests.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint.errors import GradlintError, TargetError
from gradlint.findings import Failure, Finding, Fix, Related, Report, Severity
from gradlint.location import Location
from gradlint.system.legible import one_line
from gradlint.system.undo import leaving_nothing
from gradlint.wording import plural

if TYPE_CHECKING:
    from gradlint.experiments.output_probe import Pick
    from gradlint.flow.flow import Flow
    from gradlint.rulekit.contract import Contract, Declaration
    from gradlint.rulekit.rule import Rule
    from gradlint.traces.trace import Parameter

WIDTH = 96
"""Columns of a failure's text."""


STOPPED, ARRIVED = "no-gradient", "gradient"
"""Codes of the findings of `assert_gradient_flows` and `assert_no_gradient`."""
Judge = Callable[["Flow", Sequence["Parameter"], Container[int], Container[int]], Iterator[Finding]]
"""(flow, parameters, those that gradient reaches, those where it is zero) → findings."""


class Assertions:
    """Assertions about a training setup.

    Each method takes the setup as `gradlint.check` does: a target (``"model.py:build"``), a function that builds it, or
    the setup itself. It does not change the setup.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        """Remember the folders in which target files are looked for."""
        self._folders = folders

    def check(
        self,
        setup: Any,
        *,
        select: Iterable[str] = (),
        ignore: Iterable[str] = (),
        extend_select: Iterable[str] = (),
        inputs: Sequence[str] = (),
        trains: str | Iterable[str] = (),
        frozen: str | Iterable[str] = (),
        strict: bool = False,
        show_info: bool = False,
        name: str = "",
    ) -> Report:
        """Return the report on a setup as `gradlint.check` does, with its configuration."""
        from gradlint.config.settings import Configuration, Settings
        from gradlint.engine.options import declared
        from gradlint.rulekit import registry, selection
        from gradlint.triage import filters

        rules = registry.load()
        chosen = selection.select(rules, _several(select), _several(ignore), _several(extend_select))
        report = self._report(
            setup, chosen.rules, inputs, own=True, contract=declared(trains, frozen), strict=strict, name=name
        )
        settings = Configuration().of_target(self._found(setup)) if isinstance(setup, str) else Settings()
        return filters.of_one(report, filters.Plan(settings, rules, chosen), show_info=show_info)

    def assert_clean(self, setup: Any, **options: Any) -> None:
        """Assert that nothing above info is found. Takes the options of `check`.

        Raises:
            AssertionError: something is; lists the findings.
        """
        __tracebackhide__ = True
        report = self.check(setup, **options)
        if not report.clean:
            _fail("assert_clean", report)

    def assert_trains(self, setup: Any, *patterns: str, inputs: Sequence[str] = ()) -> None:
        """Assert that the matching parameters train.

        Gradient reaches them, and an optimizer, if one is known, holds them.

        Raises:
            AssertionError: some do not, or that is unknown, or a glob matches nothing.
        """
        __tracebackhide__ = True
        from gradlint.engine.options import declared

        self._hold("assert_trains", setup, "GL701", declared(trains=_patterns(patterns)), inputs)

    def assert_frozen(self, setup: Any, *patterns: str, inputs: Sequence[str] = ()) -> None:
        """Assert that training does not move the matching parameters.

        The running statistics of their norm layers count too. Gradient may pass through.

        Raises:
            AssertionError: some would move, or that is unknown, or a glob matches nothing.
        """
        __tracebackhide__ = True
        from gradlint.engine.options import declared

        self._hold("assert_frozen", setup, "GL702", declared(frozen=_patterns(patterns)), inputs)

    def assert_gradient_flows(
        self, setup: Any, *, to: str | Iterable[str], from_output: Pick = None, inputs: Sequence[str] = ()
    ) -> None:
        """Assert that gradient other than zero reaches every matching parameter.

        It comes from the loss, or from a part of the output. Optimizers do not matter.

        Args:
            to: globs of parameters.
            from_output: a function of the output, a path into it (``"logits"``, ``"0.hidden"``) or an index.

        Raises:
            AssertionError: it does not reach some; names the reason and the line where it stops.
        """
        __tracebackhide__ = True
        report = self._probed(setup, to, from_output, inputs, _stopped)
        if report.findings or report.errors:
            _fail("assert_gradient_flows", report)

    def assert_no_gradient(
        self, setup: Any, *, to: str | Iterable[str], from_output: Pick = None, inputs: Sequence[str] = ()
    ) -> None:
        """Assert that no gradient, or only zero, reaches any matching parameter.

        Takes the arguments of `assert_gradient_flows`.

        Raises:
            AssertionError: it reaches some; names the lines on its path.
        """
        __tracebackhide__ = True
        report = self._probed(setup, to, from_output, inputs, _arrived)
        if report.findings or report.errors:
            _fail("assert_no_gradient", report)

    # -- how ----------------------------------------------------------------------------------------------------

    def _hold(self, what: str, setup: Any, code: str, contract: Sequence[Declaration], inputs: Sequence[str]) -> None:
        __tracebackhide__ = True
        from gradlint.rulekit import registry

        rules = [rule for rule in registry.load(packs=False).rules if rule.code in (code, "GL703")]
        report = self._report(setup, rules, inputs, own=False, contract=contract)
        if report.findings or report.errors:  # including info findings, for what is unknown
            _fail(what, report)

    def _report(
        self,
        setup: Any,
        rules: Sequence[type[Rule]],
        inputs: Sequence[str],
        *,
        own: bool,
        contract: Sequence[Any] = (),
        strict: bool = False,
        name: str = "",
    ) -> Report:
        from gradlint.api.check import name_of
        from gradlint.config.settings import Configuration
        from gradlint.engine.check import check_setup, check_target
        from gradlint.engine.options import Options

        options = Options(tuple(inputs), strict, contract=tuple(contract), own_contract=own)
        with lenient_warnings():
            if not isinstance(setup, str):
                return check_setup(setup, rules, options, name or name_of(setup))
            target = self._found(setup)
            if own:
                options = options.configured(Configuration().of_target(target), target)
            else:
                options = replace(options, inputs=self._inputs(target, inputs))
            return check_target(target, rules, options, name or setup)

    @leaving_nothing
    def _probed(self, setup: Any, to: str | Iterable[str], pick: Pick, inputs: Sequence[str], judge: Judge) -> Report:
        """Return what a judge finds in a setup, with gradient from a part of its output."""
        from gradlint.api.check import name_of
        from gradlint.engine.check import record_made, record_target
        from gradlint.engine.options import Options, declared
        from gradlint.experiments.output_probe import Probe, reaching
        from gradlint.experiments.settle import analyse
        from gradlint.rulekit.contract import DeclarationKind, resolve

        wanted = declared(trains=_patterns([to] if isinstance(to, str) else to))
        probe = Probe(pick)
        if isinstance(setup, str):
            name, target = setup, self._found(setup)
            options = Options(self._inputs(target, inputs), amend=probe.amend)
            recording = record_target(target, options, setup)
        else:
            name = name_of(setup)
            recording = record_made(setup, Options(tuple(inputs), amend=probe.amend), name)
        try:
            with lenient_warnings(), recording as recorded:
                trace = recorded.trace
                contract = resolve(trace, wanted)
                if contract.unmatched:
                    return Report(findings=list(_unmatched(trace, contract)))
                flow = analyse(trace, recorded.replay, terms=False)
                parameters = [p for p, _ in contract.declared(DeclarationKind.TRAINS, trace)]
                verdicts = reaching(flow, probe, recorded.replay, parameters)
                return Report(findings=list(judge(flow, parameters, *verdicts)))
        except TargetError as error:
            return Report(errors=[Failure(name, str(error), error.traceback)])
        except GradlintError as error:
            return Report(errors=[Failure(name, str(error))])

    def _inputs(self, target: str, inputs: Sequence[str]) -> tuple[str, ...]:
        from gradlint.config.settings import Configuration

        return tuple(inputs) or Configuration().of_target(target).target(target).inputs

    def _found(self, target: str) -> str:
        """Return a target with its file found in the working directory or the known folders."""
        from gradlint.load.target import parse_target

        path = parse_target(target).path
        if path is None or path.is_absolute() or path.exists():
            return target
        return next((f"{folder}/{target}" for folder in self._folders if (folder / path).exists()), target)


@contextlib.contextmanager
def lenient_warnings() -> Iterator[None]:
    """Show warnings that are to be errors: they would stop the code under check."""
    with warnings.catch_warnings():
        previous = list(warnings.filters)
        warnings.resetwarnings()
        for action, message, category, module, line in reversed(previous):
            shown: Any = "default" if action == "error" else action
            kind: Any = category
            warnings.filterwarnings(shown, _expression(message), kind, _expression(module), line)
        yield


def _expression(pattern: Any) -> str:
    """Return the text of a regular expression of a filter: compiled, plain or absent."""
    return str(getattr(pattern, "pattern", pattern) or "")


def text_of(report: Report, subject: str) -> str:
    """Return a report as a failure shows it, with every parameter named.

    The first line is ``subject: summary``; paths are relative to the working directory.
    """
    from gradlint.report import full
    from gradlint.report.view import View

    text = full.render(report, View(width=WIDTH, verbose=True, root=Path.cwd())).rstrip("\n")
    return f"{one_line(f'{subject}: {_summary(report)}')}\n\n{text}"


def _fail(what: str, report: Report) -> None:
    __tracebackhide__ = True
    raise AssertionError(text_of(report, what))


def _summary(report: Report) -> str:
    """Return the failure in a few words, for a test summary."""
    if report.errors:
        return report.errors[0].message
    said = []
    for code, clause in _CLAUSES.items():
        for unknown in (False, True):
            findings = [f for f in report.findings if f.code == code and (f.severity is Severity.INFO) is unknown]
            count = len({name for finding in findings for name in finding.parameters})
            if findings:
                said.append(plural(count, "tensor") + (" unknown" if unknown else clause))
    codes = dict.fromkeys(f.code for f in report.findings if f.code not in _CLAUSES and f.code != "GL703")
    said += ["a pattern matches nothing"] * any(f.code == "GL703" for f in report.findings)
    return ", ".join([*said, *codes])


_CLAUSES = {
    "GL701": " declared to train, not training",
    "GL702": " declared frozen, moving",
    STOPPED: " without gradient",
    ARRIVED: " with gradient",
}


def _several(selectors: str | Iterable[str]) -> list[str]:
    return [selectors] if isinstance(selectors, str) else list(selectors)


def _patterns(patterns: Iterable[str]) -> list[str]:
    """Return the globs after checking them.

    Raises:
        TypeError: there is none, or one is no text.
    """
    texts = list(patterns)
    if not texts or not all(isinstance(pattern, str) for pattern in texts):
        raise TypeError("name the parameters by one glob or more, for example 'encoder.*'")
    return texts


def _unmatched(trace: Any, contract: Contract) -> Iterator[Finding]:
    from gradlint.rulekit.contract import no_match

    for declaration in contract.unmatched:
        message = f"no parameter matches {declaration.pattern!r}: {no_match(trace, declaration.pattern)}"
        yield Finding(trace.target, "GL703", "contract-matches-nothing", Severity.ERROR, message, None)


def _stopped(
    flow: Flow, parameters: Sequence[Parameter], reached: Container[int], zero: Container[int]
) -> Iterator[Finding]:
    """Yield a finding for each cause that keeps gradient from parameters."""
    from gradlint.flow.outcome import OutcomeKind, outcome_of
    from gradlint.wording import summarize_names

    groups: dict[tuple[tuple[Location, ...], str], list[Parameter]] = {}
    for parameter in parameters:
        if parameter.index in reached:
            continue
        outcome = outcome_of(flow, parameter)
        places, why = [outcome.location] if outcome.location is not None else [], outcome.why
        if parameter.index in zero and outcome.kind is OutcomeKind.TRAINS:
            places, why = _lines(flow, parameter), "it is there, and zero in every element, whatever the weights"
        groups.setdefault((tuple(places), why), []).append(parameter)
    for (lines, why), members in groups.items():
        yield Finding(
            flow.trace.target,
            STOPPED,
            "where it is expected",
            Severity.ERROR,
            f"no gradient reaches {summarize_names(members, flow.trace.parameters)}: {why}.",
            lines[0] if lines else None,
            tuple(p.fqn for p in members),
            tuple(Related("on its path", place) for place in lines[1:6]),
            Fix("Let gradient pass here, or do not expect it."),
        )


def _arrived(
    flow: Flow, parameters: Sequence[Parameter], reached: Container[int], zero: Container[int]
) -> Iterator[Finding]:
    """Yield a finding for each path by which gradient comes to parameters."""
    from gradlint.wording import summarize_names

    groups: dict[tuple[Location, ...], list[Parameter]] = {}
    for parameter in parameters:
        if parameter.index in reached:
            groups.setdefault(tuple(_lines(flow, parameter)), []).append(parameter)
    for lines, members in groups.items():
        shown = lines if len(lines) <= 4 else (*lines[:3], lines[-1])
        yield Finding(
            flow.trace.target,
            ARRIVED,
            "where none is expected",
            Severity.ERROR,
            f"gradient reaches {summarize_names(members, flow.trace.parameters)}.",
            shown[0] if shown else None,
            tuple(p.fqn for p in members),
            tuple(Related("on its path", place) for place in shown[1:]),
            Fix("Detach on this path, or freeze the parameters with requires_grad_(False)."),
        )


def _lines(flow: Flow, parameter: Parameter) -> list[Location]:
    from gradlint.flow.paths import lines_of, path_to_loss

    readers = flow.readers(parameter)
    if not readers:
        return []
    return lines_of(flow.trace, path_to_loss(flow.trace, parameter, readers[0], by_gradient=True))
