"""One call of ``gradlint cost``: what a training step of a target costs."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.one_target import each_target
from gradlint.config.settings import Configuration
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.findings import Report
from gradlint.flow.cost import Costs
from gradlint.report import concise, cost


def run(
    target: str, inputs: Sequence[str], batch: int | None, depth: int, output_format: str, color: str
) -> int:  # fmt: skip
    """Write the costs of a target.

    Raises:
        UsageError: the batch is given twice.
        Interrupted: on Ctrl-C.
    """
    if batch is not None and inputs:
        raise UsageError("--batch repeats the inputs of build(); with --input, write the batch into the shape")

    def work(target: str) -> Costs:
        from gradlint.costs import cost_of  # once the engine is loaded

        options = Options(inputs=tuple(inputs)).configured(Configuration().of_target(target), target)
        return cost_of(target, options, batch)

    view = streams.view_of_stdout(color)
    report = Report()
    found = [costs for _, costs in each_target([target], report, work, "measuring")]
    if report.errors:
        streams.write_error(concise.errors(report, view))
        return FAILED
    for costs in found:
        if output_format == "json":
            streams.write(cost.as_json(costs))
        else:
            streams.write(cost.render(costs, view, depth), color=view.color)
    return CLEAN
