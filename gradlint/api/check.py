"""The two functions of the Python API. Importing it imports no torch."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gradlint.system.undo import leaving_nothing

if TYPE_CHECKING:
    from gradlint.findings import Report
    from gradlint.traces.trace import Trace


@leaving_nothing
def check(
    setup: Any,
    *,
    select: Iterable[str] = (),
    ignore: Iterable[str] = (),
    extend_select: Iterable[str] = (),
    inputs: Sequence[str] = (),
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
        inputs: inputs of the forward as after ``--input``, for example ``["2,3,224,224"]``.
        trains, frozen: globs of parameters that are meant to train, and to stay as they are, beside what the setup
            itself declares (GL701 to GL703).
        strict: whether what could not be recorded counts as a finding (GL003).
        numeric: whether to train a few steps, which are taken back, and to measure the gradients (GL605, GL606).
        show_info: whether findings of severity info are given too.
        name: how to name the setup in the report.

    Raises:
        UsageError: a selector fits no rule.
        GradlintError: a rule is malformed.

    A fault in the user's code raises nothing: it is in `Report.errors`. Comments in the source silence findings, as on
    the command line; configuration files are not read.
    """
    from gradlint.config.settings import Settings
    from gradlint.engine.check import check_setup, check_target, check_trace
    from gradlint.engine.options import Options, declared
    from gradlint.rulekit import registry, selection
    from gradlint.traces.trace import Trace
    from gradlint.triage import filters

    rules = registry.load()
    chosen = selection.select(rules, select, ignore, extend_select)
    options = Options(inputs=tuple(inputs), strict=strict, numeric=numeric, contract=declared(trains, frozen))
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
def trace(setup: Any, *, inputs: Sequence[str] = (), name: str = "") -> Trace:
    """Record a setup (as for `check`) and return the record.

    Raises:
        TargetError: the user's code, or what it returned, kept the recording from being made.
    """
    from gradlint.engine.check import record_made, record_target
    from gradlint.engine.options import Options

    options = Options(inputs=tuple(inputs))
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
