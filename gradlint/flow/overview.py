"""The modules and parameters of a training setup with their outcomes, reduced to what an overview shows."""

from __future__ import annotations

from gradlint.findings import GroupState, ModuleState, OptimizerState, Overview, ParameterState
from gradlint.flow.flow import Flow
from gradlint.flow.outcome import kind_of, optimizer_label
from gradlint.traces.ids import ModuleIndex
from gradlint.traces.trace import Module, Trace


def overview(flow: Flow) -> Overview:
    """Return the overview of a recorded training setup."""
    trace = flow.trace
    shown = [p for p in trace.parameters if p.in_tree]
    positions = {p.index: position for position, p in enumerate(shown)}
    parameters = tuple(
        ParameterState(
            p.fqn, p.aliases, p.shape, p.numel, p.requires_grad, kind_of(flow, p).value, p.groups, p.dtype, p.device
        )
        for p in shown
    )
    modules: list[ModuleState] = []
    counted: set[int] = set()
    for module, parent in in_tree_order(trace):
        own = [positions[i] for i in module.parameters if i in positions]
        tied = tuple(i for i in own if i in counted)
        own = [i for i in own if i not in counted]
        counted.update(own)
        modules.append(
            ModuleState(
                module.fqn, parent, module.type.name, module.type.number, module.training, _by_mode(module), tuple(own),
                tied,
            )
        )  # fmt: skip
    optimizers = tuple(
        OptimizerState(
            optimizer_label(optimizer),
            tuple(GroupState(g.lr, g.weight_decay, g.scheduled, len(g.keys)) for g in optimizer.groups),
        )
        for optimizer in trace.optimizers
    )
    return Overview(trace.target, tuple(modules), parameters, optimizers)


def in_tree_order(trace: Trace) -> list[tuple[Module, int]]:
    """Return the modules of the tree in its order, each once, with the position of its parent."""
    ordered: list[tuple[Module, int]] = []
    seen: set[ModuleIndex] = set()
    models = (ModuleIndex(number) for _, number in trace.setup.models)
    roots = dict.fromkeys([*models, *(m.number for m in trace.modules if m.parent < 0)])
    pending = [(trace.modules[n], -1) for n in reversed(roots) if trace.modules[n].in_tree]
    while pending:
        module, parent = pending.pop()
        if module.number in seen:
            continue
        seen.add(module.number)
        position = len(ordered)
        ordered.append((module, parent))
        children = (trace.modules[number] for _, number in module.children)
        own = [m for m in children if m.in_tree and m.parent == module.number]
        pending += [(m, position) for m in reversed(own)]
    return ordered


def _by_mode(module: Module) -> str:
    if module.running_stats:
        return "norm"
    return "dropout" if module.is_active_dropout or module.has_recurrent_dropout else ""
