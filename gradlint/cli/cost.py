"""One call of ``gradlint cost``: what a training step of a target costs."""

from __future__ import annotations

from collections.abc import Sequence

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.one_target import outcome_of
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.flow.cost import Costs
from gradlint.report import cost


def run(target: str, inputs: Sequence[str], batch: int | None, depth: int, output_format: str, color: str) -> int:
    """Write the costs of a target.

    Raises:
        UsageError: the batch is given twice.
        Interrupted: on Ctrl-C.
    """
    if batch is not None and inputs:
        raise UsageError("--batch repeats the inputs of build(); with --input, write the batch into the shape")

    def work(target: str, options: Options) -> Costs:
        from gradlint.api.costs import cost_of  # once the engine is loaded

        return cost_of(target, options, batch)

    view = streams.view_of_stdout(color)
    costs = outcome_of(target, inputs, work, view, "measuring")
    if costs is None:
        return FAILED
    if output_format == "json":
        streams.write_document(cost.as_json(costs))
    else:
        streams.write(cost.render(costs, view, depth), color=view.color)
    return CLEAN
