"""One call of ``gradlint cost``: what a training step of a target costs."""

from __future__ import annotations

from gradlint.cli import streams
from gradlint.cli.exits import CLEAN, FAILED
from gradlint.cli.one_target import outcomes_of
from gradlint.engine.options import Options
from gradlint.errors import UsageError
from gradlint.flow.cost import Costs
from gradlint.report import cost, cost_comparison


def run(
    target: str,
    given: Options,
    batch: int | None,
    compare: str | None,
    depth: int,
    output_format: str,
    color: str,
) -> int:
    """Write the costs of a target, or of two side by side.

    Raises:
        UsageError: the batch is given twice.
        Interrupted: on Ctrl-C.
    """
    if batch is not None and given.inputs:
        raise UsageError("--batch repeats the inputs of build(); with --input, write the batch into the shape")

    def work(target: str, options: Options) -> Costs:
        from gradlint.api.costs import cost_of  # once the engine is loaded

        return cost_of(target, options, batch)

    view = streams.view_of_stdout(color)
    targets = [target] if compare is None else [compare, target]
    measured = outcomes_of(targets, given, work, view, "measuring")
    if len(measured) < len(set(targets)):
        return FAILED
    if compare is not None:
        before, after = measured[0], measured[-1]
        if output_format == "json":
            streams.write_document(cost_comparison.as_json(before, after))
        else:
            streams.write(cost_comparison.render(before, after, view, depth), color=view.color)
    elif output_format == "json":
        streams.write_document(cost.as_json(measured[0]))
    else:
        streams.write(cost.render(measured[0], view, depth), color=view.color)
    return CLEAN
