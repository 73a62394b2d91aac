"""One call of ``gradlint why``: single parameters of a target, explained."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.one_target import each_target
from gradlint.config.settings import Configuration
from gradlint.engine.options import Options
from gradlint.errors import GradlintError
from gradlint.findings import Report
from gradlint.report import concise
from gradlint.report.explanation import Explanation
from gradlint.report.why import render


def why(target: str, pattern: str, inputs: Sequence[str], color: str) -> int:
    """Write the explanations of the parameters that a glob matches.

    Raises:
        GradlintError: it matches none.
        Interrupted: on Ctrl-C.
    """

    def work(target: str) -> list[Explanation]:
        from gradlint.explain import explain  # once the engine is loaded

        options = Options(inputs=tuple(inputs)).configured(Configuration().of_target(target), target)
        return explain(target, pattern, options)

    view = streams.view_of_stdout(color)
    report = Report()
    explanations = [explanation for _, of_target in each_target([target], report, work) for explanation in of_target]
    if report.errors:
        streams.write_error(concise.errors(report, view))
        return FAILED
    if not explanations:
        raise GradlintError(f"no parameter of {target} matches {pattern!r}")
    streams.write(render(explanations, view), color=view.color)
    return CLEAN
