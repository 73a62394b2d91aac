"""The functions of the Python API. Importing it imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from gradlint.api.inputs import texts_or_change
from gradlint.system.undo import leaving_nothing

if TYPE_CHECKING:
    from gradlint.api.inputs import GivenInputs
    from gradlint.engine.options import Options
    from gradlint.findings import GradientMap, Report, Summary
    from gradlint.rulekit.registry import Registry
    from gradlint.rulekit.selection import Selection
    from gradlint.traces.trace import Trace


@leaving_nothing
def check(
    setup: Any,
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    inputs: GivenInputs = (),
    trains: str | Iterable[str] = (),
    frozen: str | Iterable[str] = (),
    strict: bool = False,
    numeric: bool = False,
    show_info: bool = False,
    name: str = "",
) -> Report:
    """Record a setup, judge it by the rules, and give everything of it back as it was.

    Args:
        setup: a target as text (``"model.py:build"``), a function that builds a setup (it is called under the
            recorder, so that findings know the lines of the build), or what such a function returns: a Setup, a module,
            ``(model, optimizer)`` or a dict; or what `record` or `trace` recorded.
        select, ignore, extend_select: rules by code, prefix or name, as on the command line.
        inputs: inputs of the forward: tensors, shapes (tuples of ints) or texts as after ``--input``; one, a list of
            them, or a dict by the names of forward's arguments: ``(2, 3, 224, 224)``, ``[x, mask]``,
            ``{"input_ids": "2,16:int64:1000"}``.
        trains, frozen: globs of parameters that are meant to train, and to stay as they are, beside what the setup
            itself declares (GL701 to GL703).
        strict: whether what could not be recorded counts as a finding (GL003).
        numeric: whether to train a few steps, which are taken back, and to measure the gradients (GL605, GL606).
        show_info: whether findings of severity info are given too.
        name: how to name the setup in the report.

    Raises:
        UsageError: a selector fits no rule, or an input is none of the above.
        GradlintError: a rule is malformed.

    A fault in the user's code raises nothing: it is in `Report.errors`. Comments in the source silence findings, as on
    the command line; configuration files are not read.
    """
    from gradlint.engine.options import Options, declared
    from gradlint.rulekit import registry, selection

    rules = registry.load()
    chosen = selection.select(rules, select, ignore, extend_select)
    texts, amend = texts_or_change(inputs)
    contract = declared(trains, frozen)
    options = Options(inputs=texts, strict=strict, numeric=numeric, contract=contract, amend=amend)
    return _judged(setup, rules, chosen, options, name, show_info=show_info)


@leaving_nothing
def summary(setup: Any, *, inputs: GivenInputs = (), name: str = "") -> Summary:
    """Record a setup (as for `check`) and return its modules with their outcomes of training.

    Raises:
        UsageError: an input is no tensor, shape or text.
        GradlintError: a rule is malformed.

    A fault in the user's code raises nothing: it is in ``report.errors`` of the summary.
    """
    from gradlint.engine.options import Options
    from gradlint.findings import Summary
    from gradlint.rulekit import registry, selection

    rules = registry.load()
    texts, amend = texts_or_change(inputs)
    options = Options(inputs=texts, amend=amend, overview=True)
    return Summary(_judged(setup, rules, selection.select(rules), options, name, show_info=False))


@leaving_nothing
def gradient_map(setup: Any, *, inputs: GivenInputs = (), name: str = "") -> GradientMap:
    """Record a setup (as for `check`) and return the map of its gradient.

    Raises:
        UsageError: an input is no tensor, shape or text.
        GradlintError: a rule is malformed.

    A fault in the user's code raises nothing: it is in ``report.errors`` of the map.
    """
    from gradlint.engine.options import Options
    from gradlint.findings import GradientMap
    from gradlint.rulekit import registry, selection

    rules = registry.load()
    texts, amend = texts_or_change(inputs)
    options = Options(inputs=texts, amend=amend, flow_map=True)
    return GradientMap(_judged(setup, rules, selection.select(rules), options, name, show_info=False))


def _judged(setup: Any, rules: Registry, chosen: Selection, options: Options, name: str, *, show_info: bool) -> Report:
    """Record a setup, or take a recording, and judge it."""
    from gradlint.config.settings import Settings
    from gradlint.engine.check import check_setup, check_target, check_trace
    from gradlint.traces.trace import Trace
    from gradlint.triage import filters

    if isinstance(setup, str):
        report = check_target(setup, chosen.rules, options)
    else:
        from gradlint.api.recording import Recording  # imports torch

        recorded = setup.trace if isinstance(setup, Recording) else setup
        if isinstance(recorded, Trace):
            report = check_trace(recorded, chosen.rules, options)
        else:
            report = check_setup(setup, chosen.rules, options, name or name_of(setup))
    return filters.of_one(report, filters.Plan(Settings(), rules, chosen), show_info=show_info)


@leaving_nothing
def trace(setup: Any, *, inputs: GivenInputs = (), name: str = "") -> Trace:
    """Record a setup (as for `check`) and return the record.

    Raises:
        TargetError: the user's code, or what it returned, kept the recording from being made.
        UsageError: an input is no tensor, shape or text.
    """
    from gradlint.engine.check import record_made, record_target
    from gradlint.engine.options import Options

    texts, amend = texts_or_change(inputs)
    options = Options(inputs=texts, amend=amend)
    if isinstance(setup, str):
        with record_target(setup, options) as recorded:
            return recorded.trace
    with record_made(setup, options, name or name_of(setup)) as recorded:
        return recorded.trace


def name_of(setup: Any) -> str:
    """Return the name that reports give a setup without one."""
    if isinstance(setup, functools.partial):
        arguments = [*map(repr, setup.args), *(f"{key}={value!r}" for key, value in setup.keywords.items())]
        return f"{name_of(setup.func)}({', '.join(arguments)})"
    return getattr(setup, "__qualname__", "") or f"<{type(setup).__name__}>"
