"""Record training that gradlint does not run itself: a script, a loop in a ``with`` block, a Trainer.

The models and optimizers are passed in, or are the outermost modules called and the optimizers created. Nothing is
restored, because the training is the user's own.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
import weakref
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradlint.load.setup import Setup
from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.assemble import ForwardFacts, assemble, tabulate
from gradlint.recorder.facts.forward_start import ForwardStart
from gradlint.recorder.facts.kept_graphs import find_kept_graphs
from gradlint.recorder.facts.module_tree import places
from gradlint.recorder.facts.optimizer_table import optimizers_in_use
from gradlint.recorder.facts.outside_tree import OutsideTree, recreated_in_steps
from gradlint.recorder.facts.trained_outside import LooseTensors, loose_tensors, used_outside
from gradlint.recorder.hooks.executed import ExecutedCode
from gradlint.recorder.hooks.install import install_hooks
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.warned import keep_warning_lines
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.recorder.patience import Patience
from gradlint.recorder.steps import STEPS, StepQuota
from gradlint.restore.global_state import keep_torch_functions
from gradlint.system.undo import Turn, Undo
from gradlint.traces.events import ChildRegistration, ParameterRegistration
from gradlint.traces.ids import EventIndex, OpIndex, OptimizerKey
from gradlint.traces.trace import Trace

_EVALUATIONS = 4
"""How many calls that only evaluate count as one call of a model: they are not recorded, and cheap."""


class Observation:
    """Records what runs while it is entered.

    Args:
        target: what is recorded, for messages.
        models: name → module; None to find them.
        optimizers: name → optimizer; None to find them.
        steps: how often each optimizer is to step.
        gives_up: whether to give up if training makes no progress.
        limit: the limit of `Patience`; None for its default.
        on_fault: called if gradlint itself fails.
    """

    def __init__(
        self,
        target: str,
        models: Mapping[str, nn.Module] | None = None,
        optimizers: Mapping[str, Optimizer] | None = None,
        steps: int = STEPS,
        gives_up: bool = False,
        limit: int | None = None,
        on_fault: Callable[[], None] | None = None,
    ) -> None:
        self.target = target
        self.recorder = Recorder(on_fault)
        self.log = HookLog()
        self.ledger = Ledger(self.recorder)
        self.enough: Callable[[], bool] = StepQuota(self.ledger.training, self._steppers, steps)
        self.forwards = 0
        """Calls of outermost modules with parameters so far."""
        self.evaluations = 0
        """Calls that only evaluate, of which nothing is recorded."""
        self._trained: set[int] = set()
        self._patience = Patience(self.ledger.training, lambda: bool(self.log.optimizers), limit) if gives_up else None
        self._has_lost_patience = False
        self._holds_parameters: dict[int, bool] = {}
        self._models = models
        self._optimizers = optimizers
        self._names: dict[int, str] = {}
        self._made = 0
        self._begin: ForwardStart | None = None
        self._first: nn.Module | None = None
        """The module whose call began the forward."""
        self._roots: dict[str, nn.Module] = {}
        self._first_event = EventIndex(0)
        self._above: dict[int, int] = {}
        """Module → the module that it was registered in, as far as events were read."""
        self._read = 0
        self._undo = Undo()
        self._executed = ExecutedCode(self._undo)
        self._outside = OutsideTree(self.recorder, self.log, self.ledger)

    def __enter__(self) -> Observation:
        """Begin to record.

        Raises:
            UsageError: another thread records.
        """
        try:
            self._begin_to_record()
            return self
        except BaseException:
            self.end()
            raise

    def _begin_to_record(self) -> None:
        undo = self._undo
        Turn(self.target, undo, self.recorder, pauses=False).take()
        keep_torch_functions(undo)
        keep_warning_lines(undo)
        install_hooks(undo, self.recorder, self.log, self.ledger)
        undo.call(self._end)
        self.recorder.module_filter = self._should_record
        self.ledger.before_backward = self._before_backward
        self.recorder.tensors.running = True
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=functools.partial(_forked, weakref.ref(self)))
        self.ledger.follow(p for m in (self._models or {}).values() for p in nn.Module.parameters(m))
        self.ledger.follow(p for o in (self._optimizers or {}).values() for g in o.param_groups for p in g["params"])
        if self._models is not None:
            self._look_around()
        undo.enter(self.recorder)
        self._executed.collect(undo, hot=True)

    def __exit__(self, *exception: object) -> None:
        """Take the recorder out."""
        self.end()

    def end(self) -> None:
        """Take the recorder out, at the latest with a second call if an interrupt ends the first."""
        self.recorder.stop()
        self._undo.close()

    def stop(self) -> None:
        """Record nothing more, although the block goes on.

        At once, unless a mode of the user's own lies above the recorder's, or torch is inside of a hook.
        """
        self.recorder.stop()
        if self.recorder.on_top and not self.ledger.in_hook:
            self._undo.close()
        else:
            self._end()

    def _end(self) -> None:
        self.ledger.leave()
        self.recorder.tensors.forget()

    @property
    def patience_lost(self) -> bool:
        """True if training has made no progress for too long."""
        if self._patience is not None and self._patience.is_lost(self.forwards):
            self._patience, self._has_lost_patience = None, True
        return self._has_lost_patience

    # -- while it runs ------------------------------------------------------------------------------------------

    def _should_record(self, module: nn.Module, outermost: bool) -> bool:
        """Return True if a call of a module is to be recorded."""
        if not outermost:
            return True
        self.ledger.stop_if_enough()
        if not self.recorder.active:
            return False
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return False  # it runs to be compiled
        if self._only_evaluates(module):
            self.evaluations += 1
            if self.evaluations % _EVALUATIONS == 0:
                self._count(module)
            return False
        self._count(module)
        if self._models is None and id(module) not in self._names:
            self._names[id(module)] = _name_of(module, sys._getframe(2))
            # the one that holds it may never be called itself: layer.forward(x) runs its children only
            holder = self.log.modules[self._top(self.log.number(module))]
            self.ledger.follow(nn.Module.parameters(holder))
            if self._begin is not None:
                with self.recorder.pausing():
                    self._begin.buffers.note_new({"": holder})
        if not self.ledger.training.backwards and torch.is_grad_enabled():
            if self._begin is None or len(self.log.optimizers) != self._made or self._began_in_constructor(module):
                self._look_around(module)
        return True

    def _began_in_constructor(self, module: nn.Module) -> bool:
        """Return True if what ran first was a part of this module, which was built on after that.

        A constructor may run a layer to learn the size of its output.
        """
        tape, first = self.recorder.tape, self._first
        if first is None or first is module or not tape.events[self._first_event :]:
            return False
        if self._top(self.log.number(first)) != self._top(self.log.number(module)):
            return False
        return any(isinstance(e, ParameterRegistration) and e.is_new for e in tape.events[self._first_event :])

    def _count(self, module: nn.Module) -> None:
        """Count a call of a model.

        Modules without parameters are none: transforms of data, solvers, losses.
        """
        holds = self._holds_parameters.get(id(module))
        if holds is None:
            holds = self._holds_parameters[id(module)] = next(nn.Module.parameters(module), None) is not None
        self.forwards += holds

    def _only_evaluates(self, module: nn.Module) -> bool:
        """Return True if a call is a model's evaluation between steps.

        It runs without gradient and in eval mode, on a model that was trained with gradient and in train mode before.
        """
        if torch.is_grad_enabled():
            if module.training:
                self._trained.add(id(module))
            return False
        return not module.training and id(module) in self._trained and bool(self.ledger.training.steps)

    def _before_backward(self, starts: Sequence[Tensor]) -> None:
        self.ledger.follow(p for o in self.log.optimizers for g in o.param_groups for p in g["params"])
        if not self.ledger.training.backwards:
            start = self._begin
            self._look_around()
            if start is not None and self._begin is not None:
                # modes and flags as they are at the first backward, the rest as it was when its forward began
                start.flags = self._begin.flags | start.flags
                start.modes = self._begin.modes | start.modes
                start.tensors = self._begin.tensors
                start.untouched, start.allocated = self._begin.untouched, self._begin.allocated
                start.earlier = self._begin.earlier | start.earlier
                with self.recorder.pausing():
                    start.buffers.note_new(self._found_roots())
                self._begin = start
        if self._begin is not None:
            self._outside.before_backward(starts, self._begin)

    def _look_around(self, calling: nn.Module | None = None) -> None:
        """Save the state before the first training forward."""
        self.recorder.forward_begun = True
        self._made = len(self.log.optimizers)
        self._first = calling
        self._first_event = EventIndex(len(self.recorder.tape.events))
        with self.recorder.pausing():
            roots = self._found_roots(calling)
            self._begin = ForwardStart(
                self.recorder, roots, self._found_optimizers(), len(self.log.calls), rebase=self._models is not None
            )

    def _steppers(self) -> list[Optimizer]:
        if self._optimizers is not None:
            return list(self._optimizers.values())
        return optimizers_in_use(self.log.optimizers, self.ledger)

    # -- what was found -----------------------------------------------------------------------------------------

    def found(self) -> tuple[dict[str, nn.Module], dict[str, Optimizer]]:
        """Return the models and the optimizers so far, by name."""
        return self._found_roots(), self._found_optimizers()

    def _found_roots(self, calling: nn.Module | None = None) -> dict[str, nn.Module]:
        """Return the outermost modules around those that were called or that optimizers hold."""
        if self._models is not None:
            return dict(self._models)
        outer = [c.module for c in self.log.calls if c.parent < 0]
        if calling is not None:
            outer.append(self.log.number(calling))
        tops = dict.fromkeys(map(self._top, outer))
        modules = [self.log.modules[number] for number in tops]
        modules = [m for m in modules if next(nn.Module.parameters(m), None) is not None]
        inside = {id(c) for m in modules for c in nn.Module.modules(m) if c is not m}
        modules = _without_wrappers([m for m in modules if id(m) not in inside])
        modules += self._trained_outside(modules)
        if len(modules) == 1:
            return {"": modules[0]}
        names: dict[str, nn.Module] = {}
        for module in modules:
            name = _global_name(module) or self._names.get(id(module)) or type(module).__name__
            if isinstance(module, LooseTensors):
                name = ""  # its tensors have names of their own
            unique, number = name, 2
            while unique in names:
                unique, number = f"{name}_{number}", number + 1
            names[unique] = module
        return names

    def _trained_outside(self, models: Sequence[nn.Module]) -> list[nn.Module]:
        """Return what holds the parameters that steps train outside of models.

        A module that ran counts as a part of one.
        """
        optimizers = self.ledger.steps.stepped.values()
        if not optimizers:
            return []
        ran = [self.log.modules[number] for number in dict.fromkeys(call.module for call in self.log.calls)]
        inside = itertools.chain(*map(nn.Module.parameters, models), *(m._parameters.values() for m in ran))
        used = used_outside(self.recorder, self.ledger.training, optimizers, (p for p in inside if p is not None))
        if not used:
            return []
        keys = {id(p) for p in used}
        holders = [n for n, m in enumerate(self.log.modules) if not keys.isdisjoint(map(id, m._parameters.values()))]
        modules = [self.log.modules[number] for number in dict.fromkeys(map(self._top, holders))]
        held = {id(p) for m in modules for p in nn.Module.parameters(m)}
        loose = [p for p in used if id(p) not in held]
        return [*modules, loose_tensors(loose, models, optimizers)] if loose else modules

    def _top(self, number: int) -> int:
        """Return the outermost module around a module, both by number."""
        events = self.recorder.tape.events
        above = self._above
        for event in events[self._read :]:
            if isinstance(event, ChildRegistration):
                above[event.child] = event.module
        self._read = len(events)
        seen = {number}
        while number in above and above[number] not in seen:
            parent, child = self.log.modules[above[number]], self.log.modules[number]
            if not any(c is child for c in parent._modules.values()):
                break
            number = above[number]
            seen.add(number)
        return number

    def _found_optimizers(self) -> dict[str, Optimizer]:
        if self._optimizers is not None:
            return dict(self._optimizers)
        steppers = self._steppers()
        if len(steppers) == 1:
            return {"": steppers[0]}
        return {_global_name(o) or str(number): o for number, o in enumerate(steppers)}

    def trace(self) -> Trace:
        """Return the trace of everything recorded so far."""
        recorder, training = self.recorder, self.ledger.training
        with recorder.pausing():
            for backward in training.backwards:
                for key in self.ledger.other_threads.parameters & backward.deposits.keys():
                    del backward.deposits[key]
            roots, optimizers = self._found_roots(), self._found_optimizers()
            begin = self._begin if training.backwards else None  # gradients made by hand have no loss
            begin = begin or ForwardStart(recorder, roots, optimizers, len(self.log.calls), rebase=False)
            for p in places(roots):
                begin.modes.setdefault(id(p.module), bool(p.module.training))
            tables = tabulate(recorder, self.log, begin, roots, optimizers, self._models is None)
            training.kept_graphs = find_kept_graphs(recorder, training, self.ledger.steps.marks, self.log)
            training.start = begin.start
            training.first_event = self._first_event
            training.schedulers.update(
                {OptimizerKey(id(getattr(s, "optimizer", None))): site for s, site in self.log.schedulers}
            )
            first = training.backwards[0].op if training.backwards else OpIndex(len(recorder.tape.ops))
            forward = ForwardFacts(
                max(first, begin.start),
                begin.buffers.named(roots),
                begin.buffers.changed(roots),
                unregistered_tensors=self._outside.tensors(),
                recreated=recreated_in_steps(recorder, self.log, self.ledger, tables),
            )
            setup = Setup(roots[""] if list(roots) == [""] else roots)
            codes = self._executed.codes
            return assemble(self.target, setup, recorder, self.log, codes, begin, tables, forward, training)


def _without_wrappers(modules: list[nn.Module]) -> list[nn.Module]:
    """Return modules without those that only wrap others.

    A solver may wrap a network anew for each call. Wrappers of one network become that network. A module whose
    parameters are all in another one is left out.
    """
    alike: dict[frozenset[int], list[nn.Module]] = {}
    for module in modules:
        alike.setdefault(frozenset(id(p) for p in nn.Module.parameters(module)), []).append(module)
    kept: list[nn.Module] = []
    for keys, wrappers in alike.items():
        if any(keys < others for others in alike):
            continue
        shared = set.intersection(*({id(m) for m in nn.Module.modules(wrapper)} for wrapper in wrappers))
        inner = (
            m
            for m in nn.Module.modules(wrappers[0])
            if id(m) in shared and keys == {id(p) for p in nn.Module.parameters(m)}
        )
        wrapped = next(inner, None)
        kept += wrappers if wrapped is None else [wrapped]
    return kept


def _forked(reference: weakref.ref[Observation]) -> None:
    """Stop recording in a forked process.

    Python never forgets a fork callback, so it must not keep a trace alive.
    """
    observation = reference()
    if observation is not None:
        observation.recorder.stop()
        observation.ledger.following = False


def _global_name(thing: Any) -> str:
    """Return the global name of an object in the main program; empty without one."""
    main = sys.modules.get("__main__")
    names = [name for name, value in vars(main).items() if value is thing] if main is not None else []
    return next((name for name in names if not name.startswith("_")), "")


def _name_of(module: nn.Module, frame: FrameType | None) -> str:
    """Return the name of a module in the code that calls it; empty without one."""
    if frame is None:
        return ""
    variables = local_variables(frame)
    for name, value in variables.items():
        if value is module and name != "self":
            return name
    owner = variables.get("self")
    for name, value in getattr(owner, "__dict__", {}).items():
        if value is module:
            return str(name)
    return ""
