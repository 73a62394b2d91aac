"""Assembles a trace: the one place where what was recorded becomes plain data."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlint.load.setup import Setup
from gradlint.location import Code
from gradlint.recorder.calls.call_chains import code_of
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts import autograd
from gradlint.recorder.facts.forward_start import ForwardStart
from gradlint.recorder.facts.layers import Classes, describe_module, flagged_tensors, flags_of
from gradlint.recorder.facts.module_tree import NamedModule, NamedParameter, name_all, places
from gradlint.recorder.facts.optimizer_table import copies, describe_optimizers
from gradlint.recorder.facts.parameter_history import ParameterHistory, histories
from gradlint.recorder.facts.unregistered import find_unregistered_modules
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.sharding import note_flat_parameters
from gradlint.recorder.ledger.parameter_hooks import Arrival
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.restore.tensors import overlaps
from gradlint.traces.events import Event, Phase, PhaseBegun
from gradlint.traces.ids import (
    EventIndex,
    ModuleIndex,
    OpIndex,
    OptimizerIndex,
    ParameterIndex,
    ParameterKey,
    ValueId,
)
from gradlint.traces.ops import CustomFunction, MethodName, Op, function_name
from gradlint.traces.sites import Sites
from gradlint.traces.trace import (
    Copy,
    Module,
    Optimizer,
    Parameter,
    SetupFacts,
    Trace,
    UnregisteredPlace,
    UnregisteredTensor,
)
from gradlint.traces.training import Training


@dataclass(frozen=True)
class Tables:
    """The modules, parameters and optimizers of a recording as they are at one time."""

    modules: tuple[Module, ...]
    parameters: tuple[Parameter, ...]
    optimizers: tuple[Optimizer, ...]
    unregistered_modules: Mapping[ModuleIndex, UnregisteredPlace]
    tensors: Mapping[ParameterKey, Tensor]
    """Key of a parameter → its tensor."""
    layers: Sequence[NamedModule]
    copies: Mapping[ParameterKey, Copy]
    """As `Trace.copies`."""


@dataclass(frozen=True)
class ForwardFacts:
    """Facts that only the recorder's own forward and loss give; observed training has the defaults."""

    loss_start: OpIndex
    """Number of ops recorded before the loss."""
    buffers: Mapping[ValueId, str]
    """As `Trace.buffers`."""
    buffers_moved: frozenset[str]
    roots: tuple[ValueId, ...] = ()
    loss_described: str = "none: no backward pass was seen"
    loss_given: bool = False
    inputs: Mapping[ValueId, str] = field(default_factory=dict)
    inputs_described: str = "those of the training itself"
    verdict: autograd.Verdict = autograd.NOTHING
    unregistered_tensors: tuple[UnregisteredTensor, ...] = ()
    recreated: frozenset[ParameterKey] = frozenset()
    """Keys of the parameters that every forward creates anew."""
    uses_random_numbers: bool = False
    grad_off_leaked: frozenset[EventIndex] = frozenset()
    notes: tuple[str, ...] = ()


def tabulate(
    recorder: Recorder,
    log: HookLog,
    begin: ForwardStart,
    roots: Mapping[str, nn.Module],
    optimizers: Mapping[str, Any],
    by_registration: bool = False,
) -> Tables:
    """Return the tables as they are by now; `by_registration` as for `name_all`."""
    note_flat_parameters(recorder, roots)
    outside = _outside(log, roots, begin.calls)
    for place in places(roots):
        log.number(place.module)
    finds = find_unregistered_modules(roots, outside, log)
    for module in (*outside, *(find.thing for find in finds)):
        # a copy's children were neither made by a constructor nor, perhaps, run
        for inside in nn.Module.modules(module):
            log.number(inside)
    layers, named = name_all(
        roots, outside, log, recorder.tape.events, [f.named_module for f in finds], by_registration
    )
    rows = describe_optimizers(optimizers, log, recorder, begin.start, {p.key for p in named})
    pasts = histories(recorder, log, named, begin, roots)
    shared = overlaps([p.tensor for p in named])
    groups: defaultdict[ParameterKey, list[tuple[OptimizerIndex, int]]] = defaultdict(list)
    for optimizer, group in ((o, g) for o in rows for g in o.groups):
        for key in dict.fromkeys(group.keys):
            groups[key].append((optimizer.number, group.index))
    classes, calls = Classes(), _calls(log, begin.calls, recorder.tape.events)
    return Tables(
        modules=tuple(
            describe_module(
                layer,
                log.numbers,
                classes,
                training=begin.modes.get(id(layer.module), bool(getattr(layer.module, "training", False))),
                calls=calls.get(layer.number, 0),
            )
            for layer in layers
        ),
        parameters=tuple(_parameter(*row, begin, groups) for row in zip(named, pasts, shared, strict=True)),
        optimizers=rows,
        unregistered_modules={
            log.number(module): find.place(log) for find in finds for module in nn.Module.modules(find.thing)
        },
        tensors={p.key: p.tensor for p in named},
        layers=layers,
        copies=copies(recorder) if any(row.foreign for row in rows) else {},
    )


@dataclass(frozen=True)
class _Judgement:
    """What the loss and the recorded steps show of the gradient of each parameter."""

    parameters: tuple[Parameter, ...]
    reached: frozenset[ParameterIndex]
    reached_zero: frozenset[ParameterIndex]
    roots: tuple[ValueId, ...]
    loss_described: str
    is_loss_given: bool

    @classmethod
    def of_forward(
        cls, forward: ForwardFacts, parameters: tuple[Parameter, ...], index: Mapping[int, ParameterIndex]
    ) -> _Judgement:
        """Return what the recorder's own forward and loss show."""
        reached = frozenset(index[k] for k in forward.verdict.reached if k in index)
        zero = frozenset(index[k] for k in forward.verdict.zero if k in index)
        return cls(parameters, reached, zero, forward.roots, forward.loss_described, forward.loss_given)

    def with_steps(
        self, training: Training, index: Mapping[int, ParameterIndex], *, has_loss: bool, failed: bool
    ) -> _Judgement:
        """Return what the backward passes of recorded steps show, with or instead of the loss.

        `failed` is True if the backward of the loss raised.
        """
        passes = len(training.backwards)
        steps = f"{passes} backward pass{'es' if passes > 1 else ''} of the recorded steps"
        trained = frozenset(index[key] for key in training.reached if key in index)
        zero = frozenset(index[key] for key in training.reached_zero if key in index)
        parameters = tuple(_judged_by_steps(p, training, ran=has_loss) for p in self.parameters)
        if not has_loss:
            return _Judgement(parameters, trained, zero, training.roots, steps, True)
        reached = trained if failed else self.reached | trained
        roots = tuple(dict.fromkeys((*self.roots, *training.roots)))
        described = f"{self.loss_described}, and {steps}"
        zero = (self.reached_zero | zero) - reached
        return _Judgement(parameters, reached, zero, roots, described, self.is_loss_given)


def assemble(
    target: str,
    setup: Setup,
    recorder: Recorder,
    log: HookLog,
    codes: Mapping[int, CodeType],
    begin: ForwardStart,
    tables: Tables,
    forward: ForwardFacts,
    training_log: TrainingLog | None,
) -> Trace:
    """Return the trace of a recording.

    Args:
        target: what the user named.
        setup: the training setup.
        recorder: has recorded ops and events.
        log: has recorded module calls.
        codes: the functions that ran, by identity.
        begin: the state at the start of the forward.
        tables: modules, parameters and optimizers at the end.
        forward: facts of the recorder's own forward.
        training_log: the recorded steps. What their backward passes reach is reached. Their roots count beside a loss
            that the setup gives, or instead of one that it does not. Where the backward of a given loss failed, the
            steps alone decide.
    """
    tape = recorder.tape
    index: dict[int, ParameterIndex] = {p.key: p.index for p in tables.parameters}
    training = training_log.finished() if training_log is not None else None
    judged = _Judgement.of_forward(forward, tables.parameters, index)
    if training is not None and training.backwards:
        judged = judged.with_steps(
            training, index, has_loss=setup.loss is not None, failed=bool(forward.verdict.failure)
        )
    dropped = forward.verdict.dropped | (training_log.dropped if training_log is not None else set())
    functions = _Functions()
    return Trace(
        target=target,
        setup=_describe_setup(setup, log),
        sites=Sites(tuple(tape.sites.rows)),
        ops=functions.named(tape.ops),
        values=tuple(tape.values),
        events=tuple(tape.events),
        calls=tuple(log.calls),
        modules=tables.modules,
        parameters=judged.parameters,
        optimizers=tables.optimizers,
        forward_start=begin.start,
        loss_start=forward.loss_start,
        roots=judged.roots,
        loss_described=judged.loss_described,
        loss_given=judged.is_loss_given,
        owners={v: index[key] for v, key in recorder.tensors.owners.items() if key in index},
        buffers=forward.buffers,
        inputs=forward.inputs,
        buffers_moved=forward.buffers_moved,
        inputs_described=forward.inputs_described,
        on_probabilities=frozenset(tape.on_probabilities),
        unrecorded=tuple(tape.unrecorded),
        reached=judged.reached,
        reached_zero=judged.reached_zero,
        dropped=frozenset((functions.of(cls), number) for cls, number in dropped),
        notes=forward.notes,
        executed=tuple(map(Code.of, {**codes, **{id(code): code for code, _, _ in tape.sites.rows}}.values())),
        grad_off_leaked=forward.grad_off_leaked,
        unregistered_modules=tables.unregistered_modules,
        unregistered_tensors=forward.unregistered_tensors,
        copies=tables.copies,
        flagged=tuple(flagged_tensors(tables.layers, setup.inputs)),
        recreated=frozenset(index[k] for k in forward.recreated if k in index),
        uses_random_numbers=forward.uses_random_numbers,
        training=training,
        fault=recorder.fault,
    )


class _Functions:
    """Gives the functions that were called their plain names."""

    def __init__(self) -> None:
        self._known: dict[Any, str | CustomFunction] = {}

    def named(self, ops: Sequence[Op]) -> tuple[Op, ...]:
        """Return ops with the plain names of their functions."""
        names, of = self._known, self.of
        new = tuple.__new__
        return tuple(new(Op, (names.get(op[0]) or of(op[0]), *op[1:])) for op in ops)

    def of(self, function: Any) -> str | CustomFunction:
        """Return the plain name of a function; a description of a custom autograd.Function."""
        plain = self._known.get(function)
        if plain is None:
            if isinstance(function, type):
                backward = code_of(getattr(function, "backward", None))
                plain = CustomFunction(
                    function.__name__, len(self._known), Code.of(backward) if backward is not None else None
                )
            else:
                plain = function if isinstance(function, str) else function_name(function)
                if function is getattr(Tensor, plain, None):
                    plain = MethodName(plain)
            self._known[function] = plain
        return plain


def _describe_setup(setup: Setup, log: HookLog) -> SetupFacts:
    """Return the facts about a training setup that the analysis needs."""
    model = {} if setup.model is None else setup.model
    models = dict(model) if isinstance(model, Mapping) else {"": model}
    return SetupFacts(
        models=tuple((name, log.number(module)) for name, module in models.items()),
        trains=tuple(setup.trains),
        frozen=tuple(setup.frozen),
        train=setup.train,
        has_inputs=setup.inputs is not None,
        has_loss=setup.loss is not None,
        has_step=setup.step is not None,
    )


def _parameter(
    named: NamedParameter,
    past: ParameterHistory,
    shared: frozenset[int],
    begin: ForwardStart,
    groups: Mapping[ParameterKey, Sequence[tuple[OptimizerIndex, int]]],
) -> Parameter:
    """Return a parameter as plain data; a lazy one that no forward has initialised has no shape."""
    tensor, key = named.tensor, named.key
    names = tuple(dict.fromkeys(named.names))
    numel = 0 if is_lazy(tensor) else tensor.numel()
    return Parameter(
        fqn=names[0],
        aliases=names,
        spellings=named.spellings,
        key=key,
        index=named.index,
        requires_grad=(flag := begin.flags.get(key, bool(tensor.requires_grad))),
        requires_grad_before=flag,
        shape=() if is_lazy(tensor) else tuple(tensor.shape),
        numel=numel,
        bytes=numel * tensor.element_size() if numel else 0,
        groups=tuple(groups.get(key, ())),
        module=named.module,
        project=named.project,
        in_tree=named.in_tree,
        history=tuple(past.events),
        copied_from=frozenset(past.copied_from),
        made_from=frozenset(past.made_from),
        frozen_from=frozenset(past.frozen_from),
        computed=past.computed,
        written=past.written,
        requires_grad_after=bool(tensor.requires_grad),
        dtype=str(tensor.dtype).removeprefix("torch."),
        device=str(tensor.device),
        flags=flags_of(tensor),
        has_hook=_has_hook(tensor),
        is_untouched=key in begin.untouched,
        is_allocated=key in begin.allocated,
        shares_memory_with=frozenset(map(ParameterIndex, shared)),
    )


def _has_hook(tensor: Tensor) -> bool:
    """Return True if a hook other than the recorder's sees the gradient of a tensor."""
    hooks = getattr(tensor, "_backward_hooks", None) or {}
    return any(not isinstance(hook, Arrival) for hook in hooks.values())


def _judged_by_steps(parameter: Parameter, training: Training, *, ran: bool) -> Parameter:
    """Return a parameter that requires grad if it did so at any backward pass.

    `ran` is True if the recorder ran forward and loss before: what required grad then requires grad too.
    """
    if training.passes_with(parameter.key):
        return replace(parameter, requires_grad=True)
    begun = training.backwards[0].event
    switched = any(e.number >= training.first_event or e.number > begun for e in parameter.flag_changes)
    return replace(parameter, requires_grad=False) if switched and not ran else parameter


def _outside(log: HookLog, roots: Mapping[str, nn.Module], first: int) -> list[nn.Module]:
    """Return the modules that ran and that no root contains, outermost first."""
    inside = {id(m) for root in roots.values() for m in nn.Module.modules(root)}
    ran = {call.module: log.modules[call.module] for call in log.calls[first:]}
    return [module for module in ran.values() if id(module) not in inside]


def _calls(log: HookLog, first: int, events: Sequence[Event]) -> dict[int, int]:
    """Return how often each module ran in the forward and the loss, else in the recorded steps."""
    steps = next((e.op for e in events if isinstance(e, PhaseBegun) and e.phase is Phase.STEPS), None)
    forward: dict[int, int] = {}
    later: dict[int, int] = {}
    for call in log.calls[first:]:
        counts = forward if steps is None or call.start < steps else later
        counts[call.module] = counts.get(call.module, 0) + 1
    return later | forward
