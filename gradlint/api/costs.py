"""The cost of a target's training step, and what could be saved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gradlint.engine.check import check_trace, record_target
from gradlint.engine.options import Options
from gradlint.errors import TargetError
from gradlint.experiments.settle import analyse
from gradlint.flow.cost import Costs
from gradlint.system.undo import leaving_nothing
from gradlint.traces.trace import Trace

if TYPE_CHECKING:
    from gradlint.findings import Finding
    from gradlint.flow.flow import Flow
    from gradlint.load.setup import Setup


@leaving_nothing
def cost_of(target: str, options: Options | None = None, batch: int | None = None) -> Costs:
    """Return the cost of one training step of a target.

    `batch` is the size of the batch to measure at, if it is another than the inputs'.

    Raises:
        TargetError: the target could not be recorded or run again, or its inputs have no common batch dimension.
    """
    options = options or Options()
    if batch is None:
        return _cost_of(target, options)
    try:
        return _cost_of(target, dataclasses.replace(options, amend=lambda setup: _with_batch(setup, batch)))
    except TargetError as error:
        reason = f"{error} (--batch repeats the inputs alone: targets that the loss holds keep their size)"
        raise TargetError(reason, error.traceback) from error


def _cost_of(target: str, options: Options) -> Costs:
    with record_target(target, options) as recorded:
        trace, replay = recorded.trace, recorded.replay
        if replay is None:
            raise TargetError(
                "the cost is not measured: the setup is not run again, because no forward was run or its step takes "
                "too long; give 'inputs' and 'loss' beside 'step'"
            )
        from gradlint.experiments.savings import savings
        from gradlint.experiments.step_cost import measure_step

        measured = measure_step(trace, replay)
        flow = analyse(trace, replay)
        return Costs(
            target=target,
            inputs=trace.inputs_described,
            loss=trace.loss_described,
            optimizers=tuple(optimizer.type for optimizer in trace.optimizers),
            types=_types(trace),
            measured=measured,
            savings=savings(flow, replay, measured, _findings(flow)),
        )


def _findings(flow: Flow) -> list[Finding]:
    """Return what all rules find, without what comments silence."""
    from gradlint.config.settings import Settings
    from gradlint.rulekit import registry, selection
    from gradlint.triage import filters

    rules = registry.load()
    chosen = selection.select(rules)
    report = check_trace(flow.trace, chosen.rules, None, flow.evidence)
    return filters.of_one(report, filters.Plan(Settings(), rules, chosen), show_info=True).findings


def _types(trace: Trace) -> dict[str, str]:
    """Return name of a module → its class, in the order of the tree."""
    types: dict[str, str] = {}
    pending = [module for module in reversed(trace.modules) if module.in_tree and module.parent < 0]
    while pending:
        module = pending.pop()
        if module.fqn not in types:
            types[module.fqn] = module.type.name
            pending += [trace.modules[child] for _, child in reversed(module.children)]
    return types


def _with_batch(setup: Setup, batch: int) -> Setup:
    """Return a setup whose inputs are repeated along their first dimension, or cut there.

    Raises:
        TargetError: there are no inputs, or their first dimensions differ.
    """
    if setup.step is not None or setup.inputs is None:
        raise TargetError("--batch repeats the inputs of build(), and this setup's batch is made elsewhere")
    from torch import Tensor
    from torch.utils._pytree import tree_flatten, tree_unflatten

    def resized(tensor: Tensor) -> Tensor:
        copies = -(-batch // tensor.shape[0])
        return tensor.repeat(copies, *([1] * (tensor.dim() - 1)))[:batch].contiguous()

    leaves, structure = tree_flatten(setup.inputs)
    sizes = {leaf.shape[0] if leaf.dim() else 0 for leaf in leaves if isinstance(leaf, Tensor)}
    if len(sizes) != 1 or 0 in sizes:
        raise TargetError("--batch needs inputs that are tensors of one size in their first dimension")
    inputs = tree_unflatten([resized(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves], structure)
    return dataclasses.replace(setup, inputs=inputs)
