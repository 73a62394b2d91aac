"""One recording from start to end: build, forward, loss, and the tables made of them."""

from __future__ import annotations

import contextlib
import linecache
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradlint.errors import TargetError
from gradlint.load.buildable import Buildable
from gradlint.load.frameworks import unwrap_framework
from gradlint.load.inputs.find import Inputs, InputSpecs, find_inputs
from gradlint.load.setup import Setup, modules_of, normalize, optimizers_of
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.cuda import CpuStandIn
from gradlint.recorder.facts import autograd
from gradlint.recorder.facts.assemble import ForwardFacts, Tables, assemble, tabulate
from gradlint.recorder.facts.forward_start import ForwardStart
from gradlint.recorder.facts.kept_graphs import find_kept_graphs
from gradlint.recorder.facts.module_tree import places
from gradlint.recorder.facts.optimizer_table import optimizers_in_use
from gradlint.recorder.facts.outside_tree import OutsideTree, recreated_in_steps
from gradlint.recorder.facts.reachable import ReachableState, reachable_from
from gradlint.recorder.facts.roots import Roots, not_finite, roots_of
from gradlint.recorder.facts.unregistered import judge_unregistered_tensors
from gradlint.recorder.hooks.eager import force_eager, prepare_to_force_eager
from gradlint.recorder.hooks.executed import ExecutedCode
from gradlint.recorder.hooks.install import install_hooks
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.sharding import reshard
from gradlint.recorder.hooks.warned import keep_warning_lines
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.recorder.replay import Recorded, Replay
from gradlint.recorder.steps import losses_of_round, run_steps
from gradlint.recorder.user_code import (
    gradlint_runs_user_code,
    inputs_of_setup,
    run_forward,
    seed,
    user_errors,
    watch_random_draws,
)
from gradlint.restore.generators import generators_of_project
from gradlint.restore.global_state import keep_torch_functions
from gradlint.restore.preserved import Preserved
from gradlint.system.gc_pause import ImportsUnscanned
from gradlint.system.undo import Turn, Undo
from gradlint.traces.events import Phase, PhaseBegun
from gradlint.traces.ids import NO_SITE, EventIndex, OpIndex, OptimizerKey, ParameterKey, SiteId, ValueId

_SECONDS_TO_REPEAT = 1.0
"""Duration of one optimizer step from which on a step is not run again: one question may take forty runs."""
_WAITING = 0.1
"""How much a second counts that a step does not compute: it may be another process that computes."""


@contextlib.contextmanager
def recording(
    target: str,
    buildable: Buildable,
    inputs: InputSpecs | None = None,
    amend: Callable[[Setup], Setup] | None = None,
) -> Iterator[Recorded]:
    """Record a training setup; while the context lasts, it can be run again.

    Args:
        target: what the user named.
        buildable: gives what build() returns.
        inputs: the inputs of the forward, instead of those of the setup or found ones.
        amend: changes the normalized setup before it is run.

    Everything of the user's is put back at exit.

    Raises:
        TargetError: the user's code, or what it returned, keeps the recording from being made.
    """
    session = _Session(target)
    try:
        standin = session.begin(buildable)
        with contextlib.ExitStack() as teardown:
            with session.recorder, session.executed.collecting():
                result = gradlint_runs_user_code(buildable.open, teardown, session.undo)
                with user_errors("configuring the optimizers"):
                    result = gradlint_runs_user_code(unwrap_framework, result)
            session.note_left_off()
            setup = normalize(result, buildable.label)
            if amend is not None:
                setup = amend(setup)
            session.notes += setup.notes
            with session.forward(setup, inputs, standin) as recorded:
                yield recorded
    finally:
        session.recorder.stop()
        session.undo.close()


class _Session:
    def __init__(self, target: str) -> None:
        self.target = target
        self.recorder = Recorder()
        self.log = HookLog()
        self.ledger = Ledger(self.recorder)
        self.undo = Undo()
        self.executed = ExecutedCode(self.undo)
        self.notes: list[str] = []
        self.grad_off_leaked: set[EventIndex] = set()
        self._reachable: list[Optimizer] = []
        """The optimizers that the setup's step leads to."""
        self._preserved: Callable[[], Preserved] = lambda: Preserved(())
        """A function that returns what puts back all objects of the setup."""
        self._failure: TargetError | None = None
        """The error of the setup's step, if a call of it had ended before."""
        self._seconds = 0.0
        """Duration of one recorded step of an optimizer."""
        self._made_before = 0
        """Number of optimizers that were made before the steps."""

    def begin(self, buildable: Buildable) -> CpuStandIn:
        """Install all that a recording needs; return the replacement for CUDA."""
        undo, recorder = self.undo, self.recorder
        Turn(self.target, undo, recorder, pauses=True).take()
        self.log.at_first_module = undo.enter(ImportsUnscanned()).end
        keep_warning_lines(undo)
        # random states, switches and filters that build() changes
        held = [*generators_of_project(), *reachable_from(buildable.at_hand).generators]
        keep_torch_functions(undo)
        undo.enter(Preserved((), generators=held))
        undo.call(_put_back_lines, dict(linecache.cache))
        # Said because of the recorder's own hooks; the filters are put back by Preserved.
        warnings.filterwarnings("ignore", message="Using `torch.compile", category=UserWarning)
        standin = undo.enter(CpuStandIn())
        recorder.redirect_cuda(standin)
        install_hooks(undo, recorder, self.log, self.ledger)
        undo.call(self.ledger.leave)
        undo.call(recorder.tensors.forget)
        undo.call(recorder.__exit__)
        prepare_to_force_eager(undo)
        return standin

    def note_left_off(self) -> None:
        """Note the current grad-mode switch if grad mode is off, where it should be on."""
        if not torch.is_grad_enabled() and self.recorder.tape.region >= 0:
            self.grad_off_leaked.add(self.recorder.tape.region)

    @contextlib.contextmanager
    def forward(self, setup: Setup, specs: InputSpecs | None, standin: CpuStandIn) -> Iterator[Recorded]:
        """Run forward and loss, and yield the recording; the user's objects are put back at exit."""
        roots = modules_of(setup)
        optimizers = optimizers_of(setup)
        recorder = self.recorder
        owned = reachable_from(setup.step) if setup.step is not None else ReachableState()
        generators = [*owned.generators, *reachable_from(setup.loss, setup.inputs).generators]
        self._reachable = [thing for thing in owned.stateful if isinstance(thing, Optimizer)]

        def everything() -> Preserved:
            return Preserved(
                {**roots, **self._others(roots, owned)},
                optimizers=optimizers.values(),
                schedulers=[*owned.stateful, *(s for s, _ in self.log.schedulers), *(s for s, _ in self.log.scalers)],
                extra_tensors=[*tensors_in(setup.inputs), *owned.tensors],
                generators=generators,
            )

        self._preserved = everything
        preserved = everything()
        with self.undo.part() as part, recorder.announcing_writes_to(preserved):
            part.enter(preserved)
            part.call(reshard, roots)
            force_eager(self.undo)
            self._modes(setup, roots)
            for place in places(roots):
                self.log.number(place.module)
            called = self._inputs(setup, roots, specs)
            self._materialize(roots, called)
            seed()
            recorded = self._run(setup, roots, optimizers, called, standin)
            if recorder.fault is not None:
                raise TargetError(*recorder.fault)
            yield recorded
        recorded.unrestored += preserved.unrestored

    def _others(self, roots: Mapping[str, nn.Module], owned: ReachableState) -> dict[str, nn.Module]:
        """Return the networks outside the setup's model that a step may change (targets, averages)."""
        inside = {id(m) for root in roots.values() for m in nn.Module.modules(root)}
        return {f"another {type(m).__name__} ({n})": m for n, m in enumerate(owned.modules) if id(m) not in inside}

    # -- before the forward -------------------------------------------------------------------------------------

    def _modes(self, setup: Setup, roots: Mapping[str, nn.Module]) -> None:
        # beside a network in train mode, one in eval mode is meant to be: a teacher, a perceptual loss
        forgotten = not any(root.training for root in roots.values())
        for name, root in roots.items():
            flag = setup.train
            if flag is None and forgotten:
                flag = True
                self.notes.append(f"{name or 'the model'} was left in eval mode: put in train mode for the recording")
            if flag is not None:
                with self.recorder, user_errors("train()"):
                    gradlint_runs_user_code(root.train, bool(flag))

    def _inputs(self, setup: Setup, roots: Mapping[str, nn.Module], specs: InputSpecs | None) -> dict[str, Inputs]:
        """Return the inputs of every module that is to be called."""
        keyed = isinstance(setup.model, Mapping)
        called: dict[str, Inputs] = {}
        for name, root in roots.items():
            declared = setup.inputs
            if keyed:
                declared = setup.inputs.get(name) if isinstance(setup.inputs, Mapping) else None
            if specs is not None and (len(roots) == 1 or not called):
                called[name] = Inputs(*specs.materialize(), "given by --input")
            elif declared is not None:
                called[name] = inputs_of_setup(declared)
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
            if any(is_lazy(p) for p in nn.Module.parameters(roots[name])):
                with (
                    self.recorder.pausing(),
                    self.recorder,
                    torch.no_grad(),
                    user_errors("the first forward, which gives lazy layers their shapes,"),
                ):
                    seed()
                    run_forward(roots[name], inputs)

    def _search(self, root: nn.Module, roots: Mapping[str, nn.Module], name: str) -> Inputs:
        recorder = self.recorder

        def attempt(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            preserved = Preserved(roots)
            with self.undo.part() as part, recorder.announcing_writes_to(preserved), recorder.pausing():
                part.enter(preserved)
                seed()
                with recorder, torch.no_grad():
                    return root(*args, **kwargs)

        return find_inputs(root, attempt, name)

    # -- the forward --------------------------------------------------------------------------------------------

    def _run(
        self,
        setup: Setup,
        roots: Mapping[str, nn.Module],
        optimizers: Mapping[str, Any],
        called: Mapping[str, Inputs],
        standin: CpuStandIn,
    ) -> Recorded:
        recorder, log = self.recorder, self.log
        begin = ForwardStart(recorder, roots, optimizers, len(log.calls))
        named_inputs = _name_inputs(recorder, called)
        begin.unregistered_tensors = [
            (find, value) for find, value in begin.unregistered_tensors if value not in named_inputs
        ]
        output, uses_random_numbers = self._forward(setup, roots, called)
        loss_start = OpIndex(len(recorder.tape.ops))
        roots_of_run = self._loss(setup, output, bool(called))
        root_values = tuple(recorder.tensors.read(t) for t in roots_of_run.tensors)
        recorder.tape.event(PhaseBegun, NO_SITE, Phase.DONE)
        del output

        tables = tabulate(recorder, log, begin, roots, optimizers)
        notes = [*self.notes, *not_finite(roots_of_run.tensors, tables.parameters, tables.tensors)]
        verdict = self._verdict(roots_of_run, tables, begin)
        unregistered_tensors = tuple(
            judge_unregistered_tensors(
                recorder, log, begin.unregistered_tensors, roots_of_run.tensors, begin.tensors, begin.start
            )
        )
        recreated = self._recreated(setup, roots, called, tables)
        moved = begin.buffers.changed(roots)
        outside = OutsideTree(recorder, log, self.ledger)
        self.ledger.before_backward = lambda starts: outside.before_backward(starts, begin)
        training = self._steps(setup, roots, optimizers)
        if training is not None:
            optimizers = optimizers or self._optimizers_of_steps()
            tables = tabulate(recorder, log, begin, roots, optimizers)
            unregistered_tensors = outside.tensors(unregistered_tensors)
            recreated |= recreated_in_steps(recorder, log, self.ledger, tables)
            moved |= begin.buffers.changed(roots)
        if standin.used:
            notes.append("CUDA is asked for and absent here: recorded on the CPU")
        forward = ForwardFacts(
            loss_start=loss_start,
            buffers=begin.buffers.named(roots),
            buffers_moved=moved,
            roots=root_values,
            loss_described=roots_of_run.described,
            loss_given=roots_of_run.scalar,
            inputs=named_inputs,
            inputs_described=_describe_inputs(called),
            verdict=verdict,
            unregistered_tensors=unregistered_tensors,
            recreated=recreated,
            uses_random_numbers=uses_random_numbers,
            grad_off_leaked=frozenset(self.grad_off_leaked),
            notes=tuple(notes),
        )
        trace = assemble(self.target, setup, recorder, log, self.executed.codes, begin, tables, forward, training)
        judged_by_steps = training is not None and training.backwards and setup.loss is None
        replay = None
        if self._failure is not None:
            pass  # it would raise again
        elif judged_by_steps and setup.step is not None:
            if self._seconds < _SECONDS_TO_REPEAT:
                replay = self._replay_of_step(setup.step, roots, optimizers, tables.tensors)
        elif called:
            replay = self._replay(setup, roots, called, tables.tensors)
        return Recorded(trace, replay, self._failure)

    def _forward(self, setup: Setup, roots: Mapping[str, nn.Module], called: Mapping[str, Inputs]) -> tuple[Any, bool]:
        """Run the forward; return its output and whether it drew random numbers outside torch."""
        self.recorder.tape.event(PhaseBegun, NO_SITE, Phase.FORWARD)
        self.recorder.tensors.running = self.recorder.forward_begun = True
        outputs: dict[str, Any] = {}
        drawn = watch_random_draws()
        with self.recorder, self.executed.collecting(hot=True):
            for name, inputs in called.items():
                where = f" of {name!r}" if name else ""
                with user_errors(f"the forward{where} with {inputs.description or 'no inputs'} ({inputs.how})"):
                    outputs[name] = gradlint_runs_user_code(run_forward, roots[name], inputs)
        return _output(setup, outputs), drawn()

    def _loss(self, setup: Setup, output: Any, ran: bool) -> Roots:
        """Run the loss; return where the gradient is followed from."""
        self.recorder.tape.event(PhaseBegun, NO_SITE, Phase.LOSS)
        loss_roots = roots_of(setup, output, ran, self.recorder, self.notes)
        self.note_left_off()
        return loss_roots

    def _verdict(self, loss_roots: Roots, tables: Tables, begin: ForwardStart) -> autograd.Verdict:
        """Return which parameters gradient returns to, by autograd's own word.

        A parameter that the forward froze after its use counts: its gradient is still accumulated.
        """
        recorder = self.recorder
        frozen = [t for key, t in tables.tensors.items() if begin.flags.get(key) and t.is_leaf and not t.requires_grad]
        with recorder.pausing():
            for tensor in frozen:
                tensor.requires_grad_(True)
            whole = {id(shard): gathered for gathered, shard in self.log.shards.values()}
            trainable = [whole.get(id(t), t) for t in tables.tensors.values() if t.requires_grad]
            try:
                verdict = autograd.gradient([t for t in loss_roots.tensors if t.requires_grad], trainable)
            finally:
                for tensor in frozen:
                    tensor.requires_grad_(False)
        if verdict.failure:
            recorder.tape.note_unseen(
                f"the backward raised {verdict.failure}: verdicts come from the recorded graph", NO_SITE
            )
        return verdict.renamed({key: id(shard) for key, (_, shard) in self.log.shards.items()})

    def _steps(self, setup: Setup, roots: Mapping[str, nn.Module], optimizers: Mapping[str, Any]) -> TrainingLog | None:
        """Run the setup's step under the recorder."""
        if setup.step is None:
            return None
        recorder, ledger = self.recorder, self.ledger
        recorder.tape.event(PhaseBegun, NO_SITE, Phase.STEPS)
        ledger.follow(p for root in roots.values() for p in nn.Module.parameters(root))
        ledger.follow(p for o in optimizers.values() for g in o.param_groups for p in g["params"])
        seed()
        try:
            self._made_before = len(self.log.optimizers)
            began, computed = time.monotonic(), time.thread_time()
            try:
                run_steps(
                    setup.step,
                    recorder,
                    ledger,
                    lambda: list((optimizers or self._optimizers_of_steps()).values()),
                    self.executed,
                )
            except TargetError as error:
                if not ledger.training.calls:
                    raise
                self._failure = error
            seconds, computed = time.monotonic() - began, time.thread_time() - computed
            self._seconds = max(computed, _WAITING * seconds) / max(1, len(ledger.training.steps))
            ledger.training.kept_graphs = find_kept_graphs(recorder, ledger.training, ledger.steps.marks, self.log)
        finally:
            ledger.leave()
            recorder.tape.event(PhaseBegun, NO_SITE, Phase.DONE)
        ledger.training.schedulers.update(
            {OptimizerKey(id(getattr(scheduler, "optimizer", None))): site for scheduler, site in self.log.schedulers}
        )
        return ledger.training

    def _optimizers_of_steps(self) -> dict[str, Optimizer]:
        """Return the optimizers of a step that the setup does not name: name → optimizer."""
        found = optimizers_in_use([*self._reachable, *self.log.optimizers[self._made_before :]], self.ledger)
        return {"" if len(found) == 1 else str(number): o for number, o in enumerate(found)}

    def _recreated(
        self,
        setup: Setup,
        roots: Mapping[str, nn.Module],
        called: Mapping[str, Inputs],
        tables: Tables,
    ) -> frozenset[ParameterKey]:
        """Return the keys of the parameters that a second forward creates again."""
        rows = self.recorder.tape.sites.rows
        place_of: dict[ParameterKey, tuple[CodeType, int]] = {}
        events = self.recorder.tape.events
        begun = next(e.number for e in events if isinstance(e, PhaseBegun) and e.phase is Phase.FORWARD)
        for parameter in tables.parameters:
            first = parameter.created_by
            if first is not None and first.number > begun and first.is_new and first.site >= 0:
                place_of[parameter.key] = rows[first.site][:2]
        if not place_of:
            return frozenset()
        replay = self._replay(setup, roots, called, tables.tensors)
        again: list[SiteId] = []
        self.log.registrations = again
        try:
            replay()
        except Exception:  # a forward that works once only: what it does the second time is not known
            return frozenset()
        finally:
            self.log.registrations = None
        places_again = {rows[site][:2] for site in again if site >= 0}
        return frozenset(key for key, place in place_of.items() if place in places_again)

    def _replay(
        self,
        setup: Setup,
        roots: Mapping[str, nn.Module],
        called: Mapping[str, Inputs],
        tensors: Mapping[ParameterKey, Tensor],
    ) -> Replay:
        """Return the means to run forward and loss once more, unrecorded."""

        def run() -> list[Tensor]:
            outputs = {n: gradlint_runs_user_code(run_forward, roots[n], i) for n, i in called.items()}
            return list(roots_of(setup, _output(setup, outputs), True, self.recorder, []).tensors)

        return Replay(self.recorder, self.undo, roots, optimizers_of(setup), tensors, run)

    def _replay_of_step(
        self,
        step: Callable[[], Any],
        roots: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        tensors: Mapping[ParameterKey, Tensor],
    ) -> Replay:
        """Return the means to run one round of the step once more, unrecorded and without updates."""

        def run() -> list[Tensor]:
            return losses_of_round(self.undo, step, list(optimizers.values()), list(tensors.values()))

        return Replay(self.recorder, self.undo, roots, optimizers, tensors, run, self._preserved)


def _put_back_lines(cache: dict[str, Any]) -> None:
    """Put the cache of source lines back: it holds the cells of notebooks."""
    for name in [name for name in linecache.cache if name not in cache]:
        del linecache.cache[name]
    linecache.cache.update(cache)


def _output(setup: Setup, outputs: Mapping[str, Any]) -> Any:
    """Return the argument of the loss: the output of the only model called, or name → output."""
    several = isinstance(setup.model, Mapping) and len(outputs) != 1
    return outputs if several else next(iter(outputs.values()), None)


def _describe_inputs(called: Mapping[str, Inputs]) -> str:
    described = (f"{f'{n}: ' if n else ''}{i.description or 'none'} ({i.how})" for n, i in called.items())
    return "; ".join(described) or "none"


def _name_inputs(recorder: Recorder, called: Mapping[str, Inputs]) -> dict[ValueId, str]:
    named: dict[ValueId, str] = {}
    for name, inputs in called.items():
        prefix = f"{name}." if name else ""
        for key, thing in [*enumerate(inputs.args), *inputs.kwargs.items()]:
            for tensor in tensors_in(thing):
                named.setdefault(recorder.tensors.read(tensor), f"{prefix}{key}")
    return named
