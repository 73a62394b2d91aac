"""The optimizers of a recording: those that were found, and their groups and tensors as plain data."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer as TorchOptimizer

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.ledger.learning_rates import as_number
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.traces.ids import NO_EVENT, NO_SITE, OpIndex, OptimizerIndex, OptimizerKey, ParameterKey
from gradlint.traces.trace import Arguments, Copy, ForeignTensor, Group, Optimizer

_COPYING = frozenset("deepcopy Parameter clone data detach alias".split())
"""The calls that a copy of a parameter consists of."""


def optimizers_in_use(made: Iterable[TorchOptimizer], ledger: Ledger) -> list[TorchOptimizer]:
    """Return the optimizers that were made or that stepped, without those of other threads.

    One without parameters counts if it stepped. One that never steps does not, once others step, if those made after it
    contain all that it could train: they replace it.
    """
    found = {OptimizerKey(id(o)): o for o in made} | ledger.steps.stepped
    held = {key: [ParameterKey(id(p)) for g in o.param_groups for p in g["params"]] for key, o in found.items()}
    in_use: list[TorchOptimizer] = []
    later: set[ParameterKey] = set()
    for key, optimizer in reversed(found.items()):
        trainable = {ParameterKey(id(p)) for g in optimizer.param_groups for p in g["params"] if p.requires_grad}
        is_replaced = bool(ledger.steps.stepped) and bool(trainable) and trainable <= later
        later |= trainable
        if key in ledger.steps.stepped or (held[key] and not is_replaced):
            if ledger.other_threads.parameters.isdisjoint(held[key]):
                in_use.append(optimizer)
    return in_use[::-1]


def describe_optimizers(
    optimizers: Mapping[str, Any],
    log: HookLog,
    recorder: Recorder,
    start: OpIndex,
    known: Container[ParameterKey],
) -> tuple[Optimizer, ...]:
    """Return optimizers as plain data.

    Args:
        optimizers: name → optimizer.
        log: has recorded where they and their groups were made.
        recorder: has recorded what was read.
        start: number of ops before the forward.
        known: keys of the model's parameters.
    """
    rows = []
    for number, (name, optimizer) in enumerate(optimizers.items()):
        key = OptimizerKey(id(optimizer))
        arguments = log.arguments.get(key, Arguments())
        sites = log.group_events.get(key, [])
        places = [*sites, *[(NO_SITE, NO_EVENT)] * len(optimizer.param_groups)]
        tensors = [p for g in optimizer.param_groups for p in g["params"] if isinstance(p, Tensor)]
        rows.append(
            Optimizer(
                name=name,
                type=type(optimizer).__name__,
                number=OptimizerIndex(number),
                key=key,
                site=arguments.site,
                event=arguments.event,
                groups=tuple(
                    Group(
                        index=index,
                        lr=as_number(group.get("lr")),
                        site=site,
                        event=event,
                        scheduled="initial_lr" in group,
                        keys=tuple(ParameterKey(id(p)) for p in group["params"]),
                        weight_decay=as_number(group.get("weight_decay")),
                        peak_lr=as_number(group.get("max_lr", group.get("initial_lr"))),
                    )
                    for index, (group, (site, event)) in enumerate(zip(optimizer.param_groups, places, strict=False))
                ),
                arguments=arguments,
                holds_parameters_only=all(isinstance(p, nn.Parameter) for p in tensors),
                is_stepped_by_torch=type(optimizer).step.__module__.startswith("torch.optim."),
                foreign=_foreign([p for p in tensors if ParameterKey(id(p)) not in known], recorder, start),
            )
        )
    return tuple(rows)


def _foreign(tensors: list[Tensor], recorder: Recorder, start: OpIndex) -> tuple[ForeignTensor, ...]:
    """Return the tensors of an optimizer that are no parameters of the model."""
    if not tensors:
        return ()
    table = recorder.tensors
    keys = {ParameterKey(id(t)) for t in tensors}
    values = {value: key for value, key in table.owners.items() if key in keys}
    read = {values[v] for op in recorder.tape.ops[start:] for v in op.inputs if v in values}
    unknown = {key for key in keys if key not in table.watched and key in table.tracked}
    return tuple(
        ForeignTensor(
            key=ParameterKey(id(t)),
            shape=() if is_lazy(t) else tuple(t.shape),
            numel=0 if is_lazy(t) else t.numel(),
            dtype=str(t.dtype).removeprefix("torch."),
            requires_grad=bool(t.requires_grad),
            is_read=ParameterKey(id(t)) in read | unknown,
        )
        for t in tensors
    )


def copies(recorder: Recorder) -> dict[ParameterKey, Copy]:
    """Return parameter → the copy that made it."""
    owners, ops, values = recorder.tensors.owners, recorder.tape.ops, recorder.tape.values
    found: dict[ParameterKey, Copy] = {}
    seen: set[ParameterKey] = set()
    for value, key in sorted(owners.items()):  # the first value of a parameter shows where it came from
        if key in seen:
            continue
        seen.add(key)
        source, site = value, NO_SITE
        while (producer := values[source].producer) >= 0 and owners.get(source, key) == key:
            op = ops[producer]
            if not op.inputs or op.name not in _COPYING:
                break
            source, site = op.inputs[0], op.site if site == NO_SITE else site
        source_key = owners.get(source, key)
        if source_key != key:
            found[key] = Copy(source_key, site)
    return found
