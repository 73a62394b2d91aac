"""The tables of a recording: modules, parameters with what happened to them, optimizers; made when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.parameter import is_lazy

from gradlint.load.setup import Setup
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.module_tree import buffers, measure, places, tables
from gradlint.recorder.facts.unregistered import held_modules, loose_tensors
from gradlint.recorder.hooks.gradients import number as as_number
from gradlint.recorder.hooks.modules import HookLog
from gradlint.restore.tensors import overlaps, same_values, storage_of
from gradlint.traces.dataflow import ancestors, indices, propagate
from gradlint.traces.events import Event, Freeze, ParameterRegistration, ParameterWrite, Phase, PhaseBegun, Unfreeze
from gradlint.traces.ids import (
    NO_EVENT,
    NO_SITE,
    NO_VALUE,
    ModuleIndex,
    OpIndex,
    OptimizerIndex,
    OptimizerKey,
    ParameterIndex,
    ParameterKey,
    ValueId,
)
from gradlint.traces.trace import Arguments, Group, Held, Module, Optimizer, Parameter, SetupFacts, Trace
from gradlint.traces.training import Training


class Beginning:
    """How things stood when the forward (or, without one, the first step) began.

    Attributes:
        calls: number of module calls before.
        tensors: the parameters of the roots and optimizers, by identity.
        earlier: the value that each had, by identity.
        lazy: identities of those that had no shape yet.
        flags: whether each required grad.
        modes: the training flag of each module, by identity.
        named_buffers: value → name of the buffer whose content it was.
        loose: tensors in plain attributes of modules.
        start: number of ops before.
    """

    def __init__(
        self,
        recorder: Recorder,
        roots: Mapping[str, nn.Module],
        optimizers: Mapping[str, Any],
        calls: int,
        *,
        rebase: bool = True,
    ) -> None:
        """`rebase` gives parameters a fresh value without a history; not to be done in the middle of training."""
        held = [p for o in optimizers.values() for g in o.param_groups for p in g["params"]]
        self.calls = calls
        inside = [p for root in roots.values() for p in root.parameters()]
        self.tensors = {ParameterKey(id(p)): p for p in (*inside, *held)}
        if rebase:
            self.earlier = recorder.tensors.rebase(self.tensors.values())
        else:
            for p in self.tensors.values():
                recorder.tensors.watch(p)
            self.earlier = {key: recorder.tensors.read(p) for key, p in self.tensors.items()}
        self.lazy = {key for key, p in self.tensors.items() if is_lazy(p)}
        self.flags = {key: bool(p.requires_grad) for key, p in self.tensors.items()}
        self.modes = {id(p.module): bool(p.module.training) for p in places(roots)}
        self._buffers = {name: (t, t.detach().clone()) for name, t in buffers(roots).items() if not t.is_meta}
        self.named_buffers = {recorder.tensors.read(t): name for name, (t, _) in self._buffers.items()}
        self.loose = loose_tensors(roots, self.tensors, recorder)
        self.start = OpIndex(len(recorder.tape.ops))

    def buffers_moved(self, roots: Mapping[str, nn.Module]) -> frozenset[str]:
        """Return the fqns of the buffers whose content has changed since."""
        return frozenset(
            name
            for name, t in buffers(roots).items()
            if name in self._buffers and not same_values(t, self._buffers[name][1])
        )


@dataclass
class Tables:
    """The tables of a recording."""

    modules: list[Module]
    parameters: list[Parameter]
    optimizers: list[Optimizer]
    held: dict[ModuleIndex, Held]


def tabulate(
    recorder: Recorder, log: HookLog, begin: Beginning, roots: Mapping[str, nn.Module], optimizers: Mapping[str, Any]
) -> Tables:
    """The tables as they are by now."""
    outside = _outside(log, roots, begin.calls)
    for place in places(roots):
        log.number(place.module)
    finds = held_modules(roots, outside, log)
    for module in (*outside, *(find.thing for find in finds)):
        for inside in module.modules():  # a copy's children were neither made by a constructor nor, perhaps, run
            log.number(inside)
    modules, parameters = tables(roots, outside, log.numbers, log.modules, recorder.tape.events, finds)
    for row in modules:
        row.training = begin.modes.get(id(row.module), row.training)
    _count_calls(modules, log, begin.calls, recorder.tape.events)
    rows = optimizer_rows(optimizers, log)
    for parameter in parameters:
        parameter.requires_grad = begin.flags.get(parameter.key, parameter.requires_grad)
        measure(parameter)
        parameter.groups = tuple((o.number, g.index) for o in rows for g in o.groups if parameter.key in g.keys)
    histories(recorder, log, parameters, begin)
    _copies_made_before(roots, parameters)
    for parameter, others in zip(parameters, overlaps([p.tensor for p in parameters]), strict=True):
        parameter.shares_memory_with = frozenset(ParameterIndex(i) for i in others)
    held = {log.number(module): find.place(log) for find in finds for module in find.thing.modules()}
    return Tables(modules, parameters, rows, held)


def describe_setup(setup: Setup, log: HookLog) -> SetupFacts:
    """Return the facts about a training setup that the analysis needs."""
    model = {} if setup.model is None else setup.model
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    return SetupFacts(
        models=tuple((name, log.number(module)) for name, module in models.items()),
        trains=tuple(setup.trains),
        frozen=tuple(setup.frozen),
        train=setup.train,
        has_loss=setup.loss is not None,
        has_step=setup.step is not None,
    )


def include(trace: Trace, training: Training, loss_given: bool) -> None:
    """Add recorded steps to a trace: what their backward passes reach is reached, and they tell what the loss is.

    Where the set-up gives a loss, both count.
    """
    index = {p.key: p.index for p in trace.parameters}
    changed = {
        e.parameter
        for e in trace.events[training.first_event :]
        if isinstance(e, Freeze | Unfreeze) and e.parameter in index
    }
    training.toggled = frozenset(changed)
    trace.training = training
    if not training.backwards:
        return
    reached = frozenset(index[key] for key in training.reached if key in index)
    passes = len(training.backwards)
    told = f"{passes} backward pass{'es' if passes > 1 else ''} of the recorded steps"
    if loss_given:
        trace.reached |= reached
        trace.roots = tuple(dict.fromkeys((*trace.roots, *training.roots)))
        trace.loss_described += f", and {told}"
    else:
        trace.reached = reached
        trace.reached_zero = frozenset()
        trace.roots = training.roots
        trace.loss_described = told
        trace.loss_given = True
        trace.proven_by = "backward"
        trace.rerun = None


def _outside(log: HookLog, roots: Mapping[str, nn.Module], first: int) -> list[nn.Module]:
    """Modules that ran and that no root holds, outermost first."""
    inside = {id(m) for root in roots.values() for m in root.modules()}
    return list(
        {
            call.module: log.modules[call.module]
            for call in log.calls[first:]
            if id(log.modules[call.module]) not in inside
        }.values()
    )


def _count_calls(modules: Sequence[Module], log: HookLog, first: int, events: Sequence[Event]) -> None:
    """Count the runs of each module: those of the forward and the loss, else those of the recorded steps."""
    steps = next((e.op for e in events if isinstance(e, PhaseBegun) and e.phase is Phase.STEPS), None)
    later: dict[int, int] = {}
    for call in log.calls[first:]:
        if steps is not None and call.start >= steps:
            later[call.module] = later.get(call.module, 0) + 1
        else:
            modules[call.module].calls += 1
    for number, calls in later.items():
        if not modules[number].calls:
            modules[number].calls = calls


def optimizer_rows(optimizers: Mapping[str, Any], log: HookLog) -> list[Optimizer]:
    """The optimizers with their groups, and where these were given."""
    rows = []
    for number, (name, optimizer) in enumerate(optimizers.items()):
        key = OptimizerKey(id(optimizer))
        arguments = log.arguments.get(key, Arguments())
        given = log.group_events.get(key, [])
        groups = []
        for index, group in enumerate(optimizer.param_groups):
            site, event = given[index] if index < len(given) else (NO_SITE, NO_EVENT)
            groups.append(
                Group(
                    index=index,
                    lr=as_number(group.get("lr")),
                    site=site,
                    event=event,
                    scheduled="initial_lr" in group,
                    keys=tuple(ParameterKey(id(p)) for p in group["params"]),
                    weight_decay=as_number(group.get("weight_decay")),
                )
            )
        rows.append(
            Optimizer(
                name=name,
                type=type(optimizer).__name__,
                number=OptimizerIndex(number),
                key=key,
                site=arguments.site,
                event=arguments.event,
                groups=groups,
                arguments=arguments,
                holds_parameters_only=all(
                    isinstance(p, nn.Parameter) for g in optimizer.param_groups for p in g["params"]
                ),
                optimizer=optimizer,
            )
        )
    return rows


def histories(recorder: Recorder, log: HookLog, parameters: Sequence[Parameter], begin: Beginning) -> None:
    """Give every parameter its events, what it was copied from, and whether the forward wrote to it."""
    start, earlier = begin.start, begin.earlier
    by_key = {p.key: p for p in parameters}
    owners = {v: by_key[key].index for v, key in recorder.tensors.owners.items() if key in by_key}
    for event in recorder.tape.events:
        if not isinstance(event, ParameterRegistration | Freeze | Unfreeze | ParameterWrite):
            continue
        parameter = by_key.get(event.parameter)
        if parameter is not None:
            parameter.history.append(event)
            made = parameter.key in begin.lazy  # its first values are written by torch
            if isinstance(event, ParameterWrite) and event.op >= start and event.site != NO_SITE and not made:
                parameter.written = True
    # An optimizer's kernels take all parameters at once, and make none of them a copy of another.
    stepped = {number for step in log.steps for number in step}
    copying = [op for number, op in enumerate(recorder.tape.ops[:start]) if number not in stepped]
    masks = propagate(copying, recorder.tape.values, owners)
    owned: dict[ParameterKey, list[ValueId]] = {}
    for value, key in recorder.tensors.owners.items():
        owned.setdefault(key, []).append(value)
    first = {key: values[0] for key, values in owned.items()}
    if any(p.key not in earlier for p in parameters):  # copies made in the forward
        masks.data |= propagate(copying + recorder.tape.ops[start:], recorder.tape.values, owners).data
    for parameter in parameters:
        if parameter.history and parameter.history[0].region >= 0 and parameter.key in first:
            made_of = ancestors(recorder.tape.ops[:start], (first[parameter.key],))
            watched = recorder.tensors.owners
            parameter.computed = any(watched.get(v, parameter.key) != parameter.key for v in made_of)
        value = earlier.get(parameter.key, first.get(parameter.key, NO_VALUE))
        if value >= 0:
            # a freeze gives a new value without a producer: what it was copied from, the one before it tells
            computed = [v for v in owned.get(parameter.key, ()) if v <= value and recorder.tape.values[v].producer >= 0]
            depends = masks.data.get(computed[-1] if computed else value, 0)
            parameter.twin_of = frozenset(indices(depends)) - {parameter.index}


def _copies_made_before(roots: Mapping[str, nn.Module], parameters: Sequence[Parameter]) -> None:
    """Take for twins the wholly frozen modules, made before the recording, that equal one of their kind that trains:
    copies whose making was not seen (a mean teacher in a model that was built elsewhere)."""
    by_key = {p.key: p for p in parameters}
    if all(p.history or p.requires_grad for p in parameters):
        return
    alike: dict[Any, list[list[Parameter]]] = {}
    for place in places(roots):
        named = [(n, p) for n, p in place.module.named_parameters() if not is_lazy(p)]
        mine = [by_key[key] for _, p in named if (key := ParameterKey(id(p))) in by_key]
        if mine and len(mine) == len(named):
            kind = (type(place.module), tuple((n, p.shape) for n, p in named))
            alike.setdefault(kind, []).append(mine)
    for modules in alike.values():
        frozen = [ps for ps in modules if not any(p.requires_grad or p.history for p in ps)]
        for copy in frozen:
            for model in modules:
                if any(p.requires_grad for p in model) and _equal(copy, model):
                    for one, other in zip(copy, model, strict=True):
                        one.twin_of |= {other.index}


def _equal(copy: Sequence[Parameter], model: Sequence[Parameter]) -> bool:
    """Whether all values are the same, and not only because each module of the kind starts with them."""
    tensors = [p.tensor.detach() for p in copy]
    if any(storage_of(t) is None for t in tensors if t.numel()):
        return False
    telling = any(t.numel() > 1 and not bool((t == t.flatten()[0]).all()) for t in tensors)
    return telling and all(same_values(t, p.tensor.detach()) for t, p in zip(tensors, model, strict=True))
