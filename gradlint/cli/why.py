"""One call of ``gradlint why``: single parameters of a target, explained."""

from __future__ import annotations

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.one_target import outcome_of
from gradlint.engine.options import Options
from gradlint.report.explanation import Explanation
from gradlint.report.why import as_json, render


def why(target: str, pattern: str, given: Options, output_format: str, color: str) -> int:
    """Write the explanations of the parameters that a glob matches.

    Raises:
        Interrupted: on Ctrl-C.
    """

    def work(target: str, options: Options) -> list[Explanation]:
        from gradlint.api.explain import explain  # once the engine is loaded

        return explain(target, pattern, options)

    view = streams.view_of_stdout(color)
    explanations = outcome_of(target, given, work, view)
    if explanations is None:
        return FAILED
    if output_format == "json":
        streams.write_document(as_json(explanations, view.root))
    else:
        streams.write(render(explanations, view), color=view.color)
    return CLEAN
