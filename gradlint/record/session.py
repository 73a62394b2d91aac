"""One recording from start to end: build, forward, loss, and the tables made of them."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import random
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlint.building import raised
from gradlint.cuda import CpuStandIn
from gradlint.errors import GradlintError, TargetError
from gradlint.inputs import Inputs, find_inputs
from gradlint.preserve import Preserved
from gradlint.provenance import ancestors, indices, propagate
from gradlint.record import autograd
from gradlint.record.eager import eager
from gradlint.record.executed import executed
from gradlint.record.held import Find, plain_attributes
from gradlint.record.hooks import Log, installed
from gradlint.record.recorder import Recorder
from gradlint.record.tensors import tensors_in
from gradlint.record.tree import buffers, measure, places, tables
from gradlint.remarks import not_finite
from gradlint.setup import Setup, modules_of, normalize, optimizers_of
from gradlint.sites import NO_SITE
from gradlint.traces import Event, Group, Held, Loose, Optimizer, Parameter, Trace

SEED = 0
"""Forwards run under this seed, so that a verdict does not depend on the luck of a dropout or a router."""


def gradlint_runs_user_code(function: Callable[..., Any], *args: Any) -> Any:
    """Call user code; the user's call chains begin above this frame."""
    return function(*args)


@contextlib.contextmanager
def recording(
    target: str,
    make: Callable[[contextlib.ExitStack], Any],
    inputs: Callable[[nn.Module], Inputs] | None = None,
    label: str = "build()",
) -> Iterator[Trace]:
    """Record a set-up and yield its trace; while the context lasts, `Trace.rerun` works.

    Args:
        target: what the user named.
        make: gives what build() returns; loads and runs the user's code. The stack is closed at the end.
        inputs: gives the inputs of a module, instead of those of the set-up or found ones.
        label: what messages call that which gave the set-up.

    Everything of the user's is put back at exit.

    Raises:
        TargetError: the user's code, or what it returned, keeps the recording from being made.
    """
    session = _Session(target)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_heap_spared())
        stack.enter_context(Preserved(()))  # random states, switches and filters that build() changes
        # Said because of the recorder's own hooks; the filters are put back by Preserved.
        warnings.filterwarnings("ignore", message="Using `torch.compile", category=UserWarning)
        standin = stack.enter_context(CpuStandIn())
        session.recorder.rewrite = standin.rewrite if standin.active else None
        session.recorder.rewritten = standin.functions
        session.recorder.keywords = standin.keywords
        stack.enter_context(installed(session.recorder, session.log))
        stack.callback(session.recorder.tensors.forget)
        session.force_eager = stack.enter_context(eager())
        with session.recorder, executed(session.codes):
            result = gradlint_runs_user_code(make, stack)
        session.note_left_off()
        setup = normalize(result, label)
        session.notes += setup.notes
        trace = stack.enter_context(session.forward(setup, inputs))
        if standin.used:
            trace.notes.append("CUDA is asked for and absent here: recorded on the CPU")
        yield trace


@contextlib.contextmanager
def _heap_spared() -> Iterator[None]:
    """Keep the growing trace from making Python search all of torch for garbage again and again."""
    if gc.get_freeze_count():  # somebody else's freeze: undoing ours would undo theirs
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


class _Session:
    def __init__(self, target: str) -> None:
        self.target = target
        self.recorder = Recorder()
        self.log = Log()
        self.force_eager: Callable[[], None] = lambda: None
        self.notes: list[str] = []
        self.codes: dict[int, CodeType] = {}
        self.left_off: set[int] = set()

    def note_left_off(self) -> None:
        """Grad mode should be on here: remember the switch if it is off."""
        if not torch.is_grad_enabled() and self.recorder.tape.region >= 0:
            self.left_off.add(self.recorder.tape.region)

    @contextlib.contextmanager
    def forward(self, setup: Setup, given: Callable[[nn.Module], Inputs] | None) -> Iterator[Trace]:
        """Run forward and loss, and yield the trace; the user's objects are put back at exit."""
        roots = modules_of(setup)
        optimizers = optimizers_of(setup)
        recorder = self.recorder
        preserved = Preserved(roots, optimizers=optimizers.values(), extra_tensors=tensors_in(setup.inputs))
        with preserved:
            recorder.before_call = preserved.before_call
            self.force_eager()
            self._modes(setup, roots)
            for place in places(roots):
                self.log.number(place.module)
            called = self._inputs(setup, roots, given)
            self._materialize(roots, called)
            _seed()
            trace = self._run(setup, roots, optimizers, called)
            yield trace
            trace.rerun = None
        if preserved.unrestored:
            trace.notes.append("could not be put back as it was: " + ", ".join(preserved.unrestored[:3]))

    # -- before the forward -------------------------------------------------------------------------------------

    def _modes(self, setup: Setup, roots: Mapping[str, nn.Module]) -> None:
        for name, root in roots.items():
            flag = setup.train
            if flag is None and not root.training:
                flag = True
                self.notes.append(f"{name or 'the model'} was left in eval mode: put in train mode for the recording")
            if flag is not None:
                with self.recorder, _as_theirs("train()"):
                    gradlint_runs_user_code(root.train, bool(flag))

    def _inputs(
        self, setup: Setup, roots: Mapping[str, nn.Module], given: Callable[[nn.Module], Inputs] | None
    ) -> dict[str, Inputs]:
        """The inputs of every module that is to be called."""
        keyed = isinstance(setup.model, Mapping)
        called: dict[str, Inputs] = {}
        for name, root in roots.items():
            theirs = setup.inputs
            if keyed:
                theirs = setup.inputs.get(name) if isinstance(setup.inputs, Mapping) else None
            if given is not None and (len(roots) == 1 or not called):
                called[name] = given(root)
            elif theirs is not None:
                called[name] = _theirs(theirs)
            elif not keyed and (setup.step is None or setup.loss is not None):
                called[name] = self._search(root, roots, name)
        if keyed and not called and setup.step is None:
            raise TargetError(
                f"no model is given inputs: add 'inputs', a dict with keys of 'model' ({', '.join(roots)})"
            )
        return called

    def _materialize(self, roots: Mapping[str, nn.Module], called: Mapping[str, Inputs]) -> None:
        """Let lazy layers take their shapes, as the user's first batch would."""
        for name, inputs in called.items():
            if any(is_lazy(p) for p in roots[name].parameters()):
                with (
                    self._aside(),
                    torch.no_grad(),
                    _as_theirs("the first forward, which gives lazy layers their shapes,"),
                ):
                    _seed()
                    _call(roots[name], inputs)

    @contextlib.contextmanager
    def _aside(self) -> Iterator[None]:
        """Run the user's code under the recorder's rewriting without writing it down."""
        self.recorder.paused += 1
        try:
            with self.recorder:
                yield
        finally:
            self.recorder.paused -= 1

    def _search(self, root: nn.Module, roots: Mapping[str, nn.Module], name: str) -> Inputs:
        recorder = self.recorder

        def attempt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            with Preserved(roots) as preserved:
                recorder.paused += 1
                before = recorder.before_call
                recorder.before_call = preserved.before_call
                try:
                    _seed()
                    with recorder, torch.no_grad():
                        return root(*args, **kwargs)
                finally:
                    recorder.before_call = before
                    recorder.paused -= 1

        return find_inputs(root, attempt, name)

    # -- the forward --------------------------------------------------------------------------------------------

    def _run(
        self, setup: Setup, roots: Mapping[str, nn.Module], optimizers: Mapping[str, Any], called: Mapping[str, Inputs]
    ) -> Trace:
        recorder = self.recorder
        held = [p for o in optimizers.values() for g in o.param_groups for p in g["params"]]
        tensors = {id(p): p for root in roots.values() for p in root.parameters()} | {id(p): p for p in held}
        earlier = recorder.tensors.rebase(tensors.values())
        lazy = {key for key, p in tensors.items() if is_lazy(p)}
        flags = {key: bool(p.requires_grad) for key, p in tensors.items()}
        modes = {id(p.module): bool(p.module.training) for p in places(roots)}
        before = {name: (t, t.detach().clone()) for name, t in buffers(roots).items() if not t.is_meta}
        named_buffers = {recorder.tensors.read(t): name for name, (t, _) in before.items()}
        named_inputs = _name_inputs(recorder, called)
        loose = self._loose_tensors(roots, tensors)
        start = len(recorder.tape.ops)
        recorder.event("phase", {"name": "forward"}, site=NO_SITE)
        recorder.tensors.running = True
        calls_before = len(self.log.calls)
        outputs: dict[str, Any] = {}
        with recorder, executed(self.codes, hot=True):
            for name, inputs in called.items():
                where = f" of {name!r}" if name else ""
                with _as_theirs(f"the forward{where} with {inputs.description or 'no inputs'} ({inputs.how})"):
                    outputs[name] = gradlint_runs_user_code(_call, roots[name], inputs)
        loss_start = len(recorder.tape.ops)
        recorder.event("phase", {"name": "loss"}, site=NO_SITE)
        output = (
            outputs if isinstance(setup.model, Mapping) and len(outputs) != 1 else next(iter(outputs.values()), None)
        )
        found = self._roots(setup, output, bool(outputs))
        self.note_left_off()
        moved = frozenset(
            name for name, t in buffers(roots).items() if name in before and not _same(t, before[name][1])
        )
        root_values = tuple(recorder.tensors.read(t) for t in found.tensors)
        recorder.event("phase", {"name": "end"}, site=NO_SITE)

        outside = self._outside(roots, calls_before)
        for place in places(roots):
            self.log.number(place.module)
        finds = self._held(roots, outside)
        modules, parameters = tables(roots, outside, self.log.numbers, self.log.modules, recorder.tape.events, finds)
        for module in modules:
            module.training = modes.get(id(module.module), module.training)
        self._count_calls(modules, calls_before)
        rows = self._optimizers(optimizers)
        for parameter in parameters:
            parameter.requires_grad = flags.get(parameter.key, parameter.requires_grad)
            measure(parameter)
            parameter.groups = tuple((o.number, g.index) for o in rows for g in o.groups if parameter.key in g.keys)
        self._histories(parameters, start, earlier, lazy)
        by_key = {p.key: p.index for p in parameters}
        trainable = [p.tensor for p in parameters if p.tensor.requires_grad]
        recorder.paused += 1
        try:
            verdict = autograd.gradient([t for t in found.tensors if t.requires_grad], trainable)
        finally:
            recorder.paused -= 1
        if verdict.failure:
            recorder.tape.note_unseen(
                f"the backward raised {verdict.failure}: verdicts come from the recorded graph", NO_SITE
            )
        return Trace(
            target=self.target,
            setup=setup,
            sites=recorder.tape.sites,
            ops=recorder.tape.ops,
            values=recorder.tape.values,
            events=recorder.tape.events,
            calls=self.log.calls,
            modules=modules,
            parameters=parameters,
            optimizers=rows,
            forward_start=start,
            loss_start=loss_start,
            roots=root_values,
            loss_described=found.described,
            loss_given=found.scalar,
            owners={v: by_key[key] for v, key in recorder.tensors.owners.items() if key in by_key},
            buffers=named_buffers,
            inputs=named_inputs,
            buffers_moved=moved,
            inputs_described="; ".join(
                f"{f'{n}: ' if n else ''}{i.description or 'none'} ({i.how})" for n, i in called.items()
            )
            or "none",
            unseen=recorder.tape.unseen,
            reached=frozenset(by_key[k] for k in verdict.reached if k in by_key),
            reached_zero=frozenset(by_key[k] for k in verdict.zero if k in by_key),
            dropped=verdict.dropped,
            proven_by=verdict.proven,
            notes=[*self.notes, *not_finite(found.tensors, parameters)],
            executed=(*self.codes.values(), *(code for code, _, _ in recorder.tape.sites.rows)),
            left_off=frozenset(self.left_off),
            held={
                self.log.number(module): Held(find.fqn, self.log.number(find.holder), find.attribute)
                for find in finds
                for module in find.thing.modules()
            },
            loose=tuple(self._judged_loose(loose, found.tensors, tensors, start)),
            recreated=self._recreated(setup, roots, called, parameters, start),
            undone_by_train=self._undone_by_train(setup, roots, modes),
            rerun=self._rerun(setup, roots, called) if called else None,
        )

    def _roots(self, setup: Setup, output: Any, ran: bool) -> _Roots:
        """Where the gradient is followed from."""
        if not ran:
            return _Roots((), "none: nothing was run, the set-up gives no inputs", False)
        if setup.loss is not None:
            with self.recorder, _as_theirs("the loss"):
                loss = gradlint_runs_user_code(setup.loss, output)
            return _loss_roots(loss)
        own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(own, Tensor):
            return _Roots((own,), "the output's own", True)
        floating = [t for t in _all_tensors(output) if t.is_floating_point() or t.is_complex()]
        if len(floating) == 1 and floating[0].dim() == 0:
            return _Roots((floating[0],), "the model's scalar output", True)
        live = [t for t in floating if t.requires_grad]
        chosen = live or floating
        if not chosen:
            what = "None" if output is None else f"a {type(output).__name__} without a floating-point tensor"
            self.notes.append(f"the forward returned {what}, and no loss is given: is a `return` missing?")
            return _Roots((), "none given, and no output to follow gradient from", False)
        each = "the output" if len(chosen) == 1 else f"each of {len(chosen)} outputs"
        return _Roots(tuple(chosen), f"none given: gradient is followed from {each}", False)

    def _held(self, roots: Mapping[str, nn.Module], outside: Sequence[nn.Module]) -> list[Find]:
        """Where the tree's modules hold modules that ran and that nothing registers."""
        if not outside:
            return []
        ran = {id(m) for m in outside}
        found = [f for f in plain_attributes(roots) if isinstance(f.thing, nn.Module)]
        finds = [f for f in found if any(id(m) in ran for m in f.thing.modules())]
        for find in finds:
            for module in find.thing.modules():
                self.log.number(module)
        return finds

    def _loose_tensors(
        self, roots: Mapping[str, nn.Module], registered: Mapping[int, Tensor]
    ) -> list[tuple[Find, int]]:
        """Tensors that need grad and that plain attributes hold before the forward, with their values."""
        found = [f for f in plain_attributes(roots) if isinstance(f.thing, Tensor) and f.thing.requires_grad]
        return [(f, self.recorder.tensors.read(f.thing)) for f in found if id(f.thing) not in registered]

    def _judged_loose(
        self, found: Sequence[tuple[Find, int]], roots: Sequence[Tensor], registered: Mapping[int, Tensor], start: int
    ) -> Iterator[Loose]:
        if not found:
            return
        ops, values = self.recorder.tape.ops, self.recorder.tape.values
        reached = autograd.surely_reached([t for t in roots if t.requires_grad])
        asked = {v for op in ops[start:] if op.name == "grad" for v in op.inputs}
        for find, value in found:
            tensor = find.thing
            leaves = [t for t in autograd.leaves([tensor]) if id(t) not in registered]
            if leaves:
                producer = values[value].producer
                yield Loose(
                    held=Held(find.fqn, self.log.number(find.holder), find.attribute),
                    leaf=tensor.grad_fn is None,
                    parameter=any(isinstance(t, nn.Parameter) for t in leaves),
                    reached=any(id(t) in reached for t in leaves),
                    differentiated=value in asked,
                    site=ops[producer].site if producer >= 0 else NO_SITE,
                )

    def _recreated(
        self,
        setup: Setup,
        roots: Mapping[str, nn.Module],
        called: Mapping[str, Inputs],
        parameters: Sequence[Parameter],
        start: int,
    ) -> frozenset[int]:
        """Parameters made by the forward, where a second forward makes them again."""
        rows = self.recorder.tape.sites.rows
        made: dict[int, tuple[CodeType, int]] = {}
        events = self.recorder.tape.events
        begun = next(e.number for e in events if e.kind == "phase" and e.data["name"] == "forward")
        for parameter in parameters:
            first = next((e for e in parameter.history if e.kind == "register"), None)
            if first is not None and first.number > begun and first.data["first"] and first.site >= 0:
                made[parameter.index] = rows[first.site][:2]
        rerun = self._rerun(setup, roots, called) if made else None
        if rerun is None:
            return frozenset()
        again: list[int] = []
        self.log.registrations = again
        try:
            rerun()
        except Exception:  # a forward that works once only: what it does the second time is not known
            return frozenset()
        finally:
            self.log.registrations = None
        places_again = {rows[site][:2] for site in again if site >= 0}
        return frozenset(index for index, place in made.items() if place in places_again)

    def _undone_by_train(
        self, setup: Setup, roots: Mapping[str, nn.Module], modes: Mapping[int, bool]
    ) -> frozenset[int]:
        """The modules in eval mode that the roots' own train() would put back; asked only where there is a step."""
        if setup.step is None or all(modes.values()):
            return frozenset()
        self.recorder.paused += 1
        try:
            with Preserved(roots):
                for root in roots.values():
                    if modes.get(id(root)):
                        root.train()
                return frozenset(
                    self.log.number(p.module)
                    for p in places(roots)
                    if not modes.get(id(p.module), True) and p.module.training
                )
        except Exception:  # the user's train() may raise; then nothing is known
            return frozenset()
        finally:
            self.recorder.paused -= 1

    def _outside(self, roots: Mapping[str, nn.Module], first: int) -> list[nn.Module]:
        """Modules that ran and that no root holds, outermost first."""
        inside = {id(m) for root in roots.values() for m in root.modules()}
        return list(
            {
                call.module: self.log.modules[call.module]
                for call in self.log.calls[first:]
                if id(self.log.modules[call.module]) not in inside
            }.values()
        )

    def _count_calls(self, modules: Sequence[Any], first: int) -> None:
        for call in self.log.calls[first:]:
            modules[call.module].calls += 1

    def _optimizers(self, optimizers: Mapping[str, Any]) -> list[Optimizer]:
        rows = []
        for number, (name, optimizer) in enumerate(optimizers.items()):
            arguments = self.log.arguments.get(id(optimizer))
            given = self.log.group_events.get(id(optimizer), [])
            groups = []
            for index, group in enumerate(optimizer.param_groups):
                site, event = given[index] if index < len(given) else (NO_SITE, -1)
                groups.append(
                    Group(
                        index=index,
                        lr=_number(group.get("lr")),
                        site=site,
                        event=event,
                        scheduled="initial_lr" in group,
                        keys=tuple(id(p) for p in group["params"]),
                    )
                )
            rows.append(
                Optimizer(
                    name=name,
                    type=type(optimizer).__name__,
                    number=number,
                    site=arguments.site if arguments else NO_SITE,
                    event=arguments.event if arguments else -1,
                    groups=groups,
                    arguments=arguments,
                    optimizer=optimizer,
                )
            )
        return rows

    def _histories(
        self, parameters: Sequence[Parameter], start: int, earlier: Mapping[int, int], lazy: set[int]
    ) -> None:
        """Give every parameter its events, what it was copied from, and whether the forward wrote to it."""
        by_key = {p.key: p for p in parameters}
        owners = {v: by_key[key].index for v, key in self.recorder.tensors.owners.items() if key in by_key}
        events: list[Event] = self.recorder.tape.events
        for event in events:
            parameter = by_key.get(event.data.get("parameter", -1))
            if parameter is not None:
                parameter.history.append(event)
                made = parameter.key in lazy  # its first values are written by torch
                if event.kind == "write" and event.op >= start and event.site != NO_SITE and not made:
                    parameter.written = True
        masks = propagate(self.recorder.tape.ops[:start], self.recorder.tape.values, owners)
        first: dict[int, int] = {}
        for value, key in self.recorder.tensors.owners.items():
            first.setdefault(key, value)
        if any(p.key not in earlier for p in parameters):  # copies made in the forward
            masks.data |= propagate(self.recorder.tape.ops, self.recorder.tape.values, owners).data
        for parameter in parameters:
            if parameter.history and parameter.history[0].region >= 0 and parameter.key in first:
                made_of = ancestors(self.recorder.tape.ops[:start], (first[parameter.key],))
                watched = self.recorder.tensors.owners
                parameter.computed = any(watched.get(v, parameter.key) != parameter.key for v in made_of)
            value = earlier.get(parameter.key, first.get(parameter.key, -1))
            if value >= 0:
                depends = masks.data.get(value, 0)
                parameter.twin_of = frozenset(indices(depends)) - {parameter.index}

    def _rerun(
        self, setup: Setup, roots: Mapping[str, nn.Module], called: Mapping[str, Inputs]
    ) -> Callable[[], list[Tensor]]:
        """Forward and loss once more, unrecorded; all it changes is put back."""
        recorder = self.recorder

        def rerun() -> list[Tensor]:
            before = recorder.before_call
            recorder.paused += 1
            try:
                with Preserved(roots) as preserved, recorder:
                    recorder.before_call = preserved.before_call
                    _seed()
                    outputs = {n: gradlint_runs_user_code(_call, roots[n], i) for n, i in called.items()}
                    output = (
                        outputs
                        if isinstance(setup.model, Mapping) and len(outputs) != 1
                        else next(iter(outputs.values()))
                    )
                    return [t.detach().clone() for t in self._roots(setup, output, True).tensors]
            finally:
                recorder.before_call = before
                recorder.paused -= 1

        return rerun


@dataclasses.dataclass(frozen=True)
class _Roots:
    tensors: tuple[Tensor, ...]
    described: str
    scalar: bool


def _loss_roots(loss: Any) -> _Roots:
    if isinstance(loss, (list, tuple)) and loss and isinstance(loss[0], Tensor):
        loss = loss[0]
    elif isinstance(loss, Mapping) and isinstance(loss.get("loss"), Tensor):
        loss = loss["loss"]
    if not isinstance(loss, Tensor):
        got = "None" if loss is None else f"a {type(loss).__name__}"
        advice = (
            "drop its .item() or float()" if isinstance(loss, (int, float)) else "return what backward() is called on"
        )
        raise TargetError(f"the loss function returned {got} instead of a scalar tensor: {advice}")
    if loss.numel() != 1:
        shape = ", ".join(map(str, loss.shape))
        return _Roots((loss,), f"given, a tensor[{shape}] where backward() needs a scalar", True)
    return _Roots((loss,), "given", True)


@contextlib.contextmanager
def _as_theirs(what: str) -> Iterator[None]:
    """Report an exception of the user's code as theirs."""
    try:
        yield
    except GradlintError:
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise raised(what, error) from error


def _call(module: nn.Module, inputs: Inputs) -> Any:
    return module(*inputs.args, **inputs.kwargs)


def _theirs(inputs: Any) -> Inputs:
    if isinstance(inputs, Mapping):
        return Inputs((), dict(inputs))
    if isinstance(inputs, (tuple, list)):
        return Inputs(tuple(inputs))
    return Inputs((inputs,))


def _name_inputs(recorder: Recorder, called: Mapping[str, Inputs]) -> dict[int, str]:
    named: dict[int, str] = {}
    for name, inputs in called.items():
        prefix = f"{name}." if name else ""
        for key, thing in [*enumerate(inputs.args), *inputs.kwargs.items()]:
            for tensor in tensors_in(thing):
                named.setdefault(recorder.tensors.read(tensor), f"{prefix}{key}")
    return named


def _all_tensors(thing: Any, seen: set[int] | None = None, depth: int = 0) -> list[Tensor]:
    """The tensors in an output: nested containers, dataclasses, plain objects."""
    seen = set() if seen is None else seen
    if isinstance(thing, Tensor):
        if id(thing) in seen:
            return []
        seen.add(id(thing))
        return [thing]
    if thing is None or depth > 6 or id(thing) in seen or isinstance(thing, (str, bytes, int, float, bool, nn.Module)):
        return []
    seen.add(id(thing))
    parts: list[Any] = []
    if isinstance(thing, Mapping):
        parts = list(thing.values())
    elif isinstance(thing, (list, tuple, set, frozenset)):
        parts = list(thing)
    elif dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        parts = [getattr(thing, f.name, None) for f in dataclasses.fields(thing)]
    elif hasattr(thing, "__dict__") and not isinstance(thing, type):
        parts = list(vars(thing).values())
    return [t for part in parts for t in _all_tensors(part, seen, depth + 1)]


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _same(left: Tensor, right: Tensor) -> bool:
    if left.shape != right.shape or left.dtype != right.dtype or left.is_meta:
        return False
    with torch.no_grad():
        return bool(torch.equal(left.detach(), right)) or bool(
            torch.equal(torch.nan_to_num(left.detach()), torch.nan_to_num(right))
        )


def _seed() -> None:
    random.seed(SEED)
    torch.manual_seed(SEED)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(SEED)
