"""The cost of a target's training step, and what could be saved."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from gradlint.engine.check import record_target
from gradlint.engine.options import Options
from gradlint.errors import TargetError
from gradlint.experiments.settle import analyse
from gradlint.flow.cost import Costs, Measured, Saving
from gradlint.flow.outcome import OutcomeKind, kind_of
from gradlint.system.undo import leaving_nothing
from gradlint.traces.trace import Parameter, Trace
from gradlint.wording import summarize_names

if TYPE_CHECKING:
    from gradlint.load.setup import Setup
    from gradlint.recorder.replay import Replay

_WASTED = {
    OutcomeKind.NOT_IN_OPTIMIZER: "no optimizer holds them",
    OutcomeKind.ZERO_LR: "their learning rate is 0",
}
"""Outcome of parameters that get gradient for nothing → the reason in words."""


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
        from gradlint.experiments.step_cost import measure_step

        measured = measure_step(trace, replay)
        return Costs(
            target=target,
            inputs=trace.inputs_described,
            loss=trace.loss_described,
            optimizers=tuple(optimizer.type for optimizer in trace.optimizers),
            types=_types(trace),
            measured=measured,
            savings=_savings(trace, replay, measured),
        )


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


def _savings(trace: Trace, replay: Replay, measured: Measured) -> tuple[Saving, ...]:
    """Return the measured saving for each reason why a gradient is of no use."""
    from gradlint.experiments.step_cost import measure_step

    flow = analyse(trace, replay, terms=False)
    wasted: dict[OutcomeKind, list[Parameter]] = {}
    for parameter in trace.parameters:
        kind = kind_of(flow, parameter)
        if kind in _WASTED and parameter.index in flow.reached and trace.optimizers:
            wasted.setdefault(kind, []).append(parameter)
    savings = []
    for kind, parameters in wasted.items():
        saved = measured.total - measure_step(trace, replay, [p.index for p in parameters]).total
        names = summarize_names(parameters, trace.parameters)
        savings.append(Saving(_WASTED[kind], names, tuple(p.fqn for p in parameters), saved))
    return tuple(sorted(savings, key=lambda saving: (-saving.saved.bytes, -saving.saved.flops)))


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
