"""Keep a ledger of gradients: the backward passes that each ``.grad`` is the sum of, and the steps that applied it.

torch has a hook for the accumulation of a gradient and none for its clearing, so the ledger looks at ``.grad`` before
each backward and step. A gradient counts as cleared when it is gone, zero, or another tensor than before.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.facts.autograd import Passage, nonzero, watching
from gradlint.recorder.facts.finiteness import FiniteWatch
from gradlint.recorder.facts.kept_graphs import StepMark, mark
from gradlint.recorder.ledger import optimizer_state
from gradlint.recorder.ledger.gradient_masks import GradientMasks
from gradlint.recorder.ledger.rounding import count_updates
from gradlint.recorder.ledger.training_log import OpenBackward, OpenStep, TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_readable, same_values
from gradlint.traces.events import BackwardCalled, ScalerStepCalled, SchedulerStepCalled, StepCalled, ZeroGradCalled
from gradlint.traces.ids import (
    NO_EVENT,
    NO_OP,
    NO_SITE,
    BackwardIndex,
    EventIndex,
    ModuleIndex,
    OpIndex,
    OptimizerKey,
    ParameterKey,
    SiteId,
    StepIndex,
    ValueId,
)
from gradlint.traces.training import Clear, Clip, Content, Schedule, Spoiling
from gradlint.undo import Undo

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""The attributes of a tensor that hold its hooks."""
_TORCH_OPTIMIZERS = "torch.optim."
"""Modules of optimizers that never move parameters along their gradient before a closure."""
_CLIMBING_ENTRIES = 16
"""Number of entries moved in the direction of their gradient that is no accident."""
_UNAPPLIED = -1
_ZERO = -2
"""Instead of a round: the gradient is exactly zero, or was zeroed unseen (``p.grad.data.zero_()``)."""


class Arrival:
    """A hook for the gradient of a parameter, before it is accumulated."""

    __torch_unserializable__ = True
    """Keeps torch from a warning where user code saves the parameter."""

    def __init__(self, ledger: Ledger, key: ParameterKey) -> None:
        self._ledger = ledger
        self._key = key

    def __call__(self, gradient: Tensor | None) -> None:
        self._ledger.arrive(self._key, gradient)


class EnoughRecorded(BaseException):
    """Ends the user's training once enough is recorded. A BaseException, so that no ``except Exception`` stops it."""


class _Running:
    """A step that has not returned."""

    def __init__(
        self, step: OpenStep, frame: FrameType | None, before: dict[ParameterKey, Tensor], round_: int
    ) -> None:
        self.step = step
        self.frame = frame
        """Frame of torch's wrapper around the step; the step runs while it is on the stack."""
        self.before = before
        """Identity of a parameter → copy of its value before the step."""
        self.parameters: dict[ParameterKey, tuple[Tensor, float | None]] = {}
        self.stateless: dict[OptimizerKey, Optimizer] = {}
        """Optimizers that took part and had no state before."""
        self.evaluations = 0
        """Number of times the closure has run."""
        self.round = round_
        """Round of the ledger in which the step began."""


class Ledger:
    """Follows the gradients of parameters through backward passes, clears and optimizer steps."""

    def __init__(self, recorder: Recorder) -> None:
        self.training = TrainingLog()
        self.stopping: Callable[[], bool] = lambda: False
        """A function called before more user code runs; True ends the training."""
        self.before_backward: Callable[[Sequence[Tensor]], None] | None = None
        """A function called before each backward pass, with the tensors it starts from."""
        self.stepped: dict[OptimizerKey, Optimizer] = {}
        """Identity → optimizer that has stepped: a wrapper rather than the optimizer inside."""
        self.in_hook = False
        """True while torch iterates over its step hooks, when none of them may be removed."""
        self.elsewhere = 0
        """Number of optimizer steps in other threads than the recorder's."""
        self.foreign: set[ParameterKey] = set()
        """Identities of the parameters that other threads train."""
        self.on_elsewhere: Callable[[], None] | None = None
        """A function called at each step in another thread, in that thread."""
        self._recorder = recorder
        self._parameters: dict[ParameterKey, Tensor] = {}
        self._unhooked: dict[ParameterKey, list[str]] = {}
        """Identity of a parameter → the tables of hooks that it did not have before."""
        self._holds: dict[ParameterKey, dict[BackwardIndex, int]] = {}
        """Identity of a parameter → number of a backward pass → round in which a step applied its gradient."""
        self._grads: dict[ParameterKey, weakref.ref[Tensor]] = {}
        self._versions: dict[ParameterKey, int] = {}
        self._clipped_until: dict[ParameterKey, OpIndex] = {}
        """Parameter → the op after the latest clip of its gradient, where nothing else had written to it."""
        self._open: OpenBackward | None = None
        self._arrived: dict[ParameterKey, bool] = {}
        """Parameter whose gradient is about to be accumulated → whether there is one: autograd may pass on None."""
        self._finite: FiniteWatch | None = None
        """The look at the gradients of the open backward pass."""
        self._passage = Passage()
        """The ways of the open backward pass."""
        self._passages: dict[tuple[object, ...], Passage] = {}
        """Kind of backward pass → the ways of the first of its kind."""
        self._running: list[_Running] = []
        self._round = 0
        self._climbed: tuple[int, frozenset[ParameterKey]] = (0, frozenset())
        """Round in which the running step began, and what it moved along its gradient before the closure."""
        self._masks = GradientMasks()
        self._scaled: set[ValueId] = set()
        """Values that a gradient scaler returned."""
        self._unscaled: set[BackwardIndex] = set()
        """Numbers of the backward passes whose gradient is not, or no longer, multiplied by a scaler."""
        self.following = False
        self.clearing = 0
        """Above zero while torch reads gradients to clear or to unscale them."""
        self.marks: list[StepMark] = []
        """Marks of the start and of the end of every step."""

    # -- parameters ---------------------------------------------------------------------------------------------

    def follow(self, parameters: Iterable[Tensor]) -> None:
        """Follow every gradient that is accumulated into some leaf tensors."""
        if not self.following:
            self.following = True
            self.marks.append(mark(self._recorder))
            self._recorder.tape.nodes = []
            self.training.start = OpIndex(len(self._recorder.tape.ops))
            self.training.first_event = EventIndex(len(self._recorder.tape.events))
        for tensor in parameters:
            key = ParameterKey(id(tensor))
            if key in self._parameters or not tensor.is_leaf:
                continue
            self._parameters[key] = tensor
            with without_torch_function(), contextlib.suppress(RuntimeError):  # integers, inference tensors
                if tensor.requires_grad:
                    self._hook(tensor, key)
                    continue
                # A step may unfreeze a parameter, and only what requires grad takes a hook.
                with Undo() as undo:
                    undo.call(tensor.requires_grad_, False)
                    tensor.requires_grad_(True)
                    self._hook(tensor, key)

    def _hook(self, tensor: Tensor, key: ParameterKey) -> None:
        tables = {name: getattr(tensor, name, None) for name in _HOOKS}
        self._unhooked[key] = [
            name for name, table in tables.items() if table is None or (table and all(map(_is_own, table.values())))
        ]
        tensor.register_hook(Arrival(self, key))  # type: ignore[no-untyped-call]
        tensor.register_post_accumulate_grad_hook(self._deposit)  # type: ignore[no-untyped-call]

    def _unhook(self, tensor: Tensor, key: ParameterKey) -> None:
        """Remove the hooks of a tensor, and torch's tables of hooks if it had none before."""
        for name in _HOOKS:
            hooks = getattr(tensor, name, None) or {}
            own = [k for k, h in hooks.items() if getattr(h, "_ledger", None) is self or h == self._deposit]
            for handle in own:
                del hooks[handle]
        for name in self._unhooked.get(key, ()):
            if not getattr(tensor, name, None):
                setattr(tensor, name, None)

    def leave(self) -> None:
        """Remove all hooks, and follow nothing more."""
        while self._running:
            self._forget_running()
        self.following = False
        self._recorder.tape.nodes = None
        with without_torch_function():
            for key, tensor in self._parameters.items():
                self._unhook(tensor, key)
        self._parameters.clear()
        self._unhooked.clear()
        self._holds.clear()
        self._grads.clear()

    def release(self, *gradients: Tensor) -> None:
        """Keep no weak reference to some gradients, which may be exchanged then."""
        for key in [key for key, grad in self._grads.items() if any(grad() is g for g in gradients)]:
            del self._grads[key]

    # -- backward -----------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def backward(self, tensors: Any, retains: bool, site: SiteId) -> Iterator[None]:
        """Attribute the gradient accumulated inside to a backward pass from `tensors`."""
        recorder = self._recorder
        self.stop_if_enough()
        if not self.following:  # the recording has ended with it
            yield
            return
        self._close_open_steps()
        starts = tensors_in(tensors)
        if self.before_backward is not None:
            self.before_backward(starts)
        self._look()
        roots = tuple(recorder.tensors.read(t) for t in starts)
        outer, self._open = self._open, self._begin(roots, retains, site)
        try:
            with recorder.pausing(), self._passing(self._open, starts), self._watching_finiteness(self._open, starts):
                yield
        except BaseException:
            self._drop_refused(self._open, starts)
            raise
        finally:
            self._open = outer

    def recounted(self, norms: frozenset[ModuleIndex]) -> None:
        """Note the batch norms that counted a batch during the backward pass that is open."""
        if self._open is not None:
            self._open.recounted |= norms

    @contextlib.contextmanager
    def _watching_finiteness(self, backward: OpenBackward, roots: Sequence[Tensor]) -> Iterator[None]:
        """Find gradients of a backward pass that are NaN or infinite, and the calls behind them."""
        outer, self._finite = self._finite, FiniteWatch(roots)
        try:
            with self._finite as watch:
                yield
            backward.spoilt = {key: self._spoiling(node, backward.site) for key, node in watch.spoilt().items()}
        finally:
            self._finite = outer

    def _spoiling(self, node: Any, site: SiteId) -> Spoiling:
        tape = self._recorder.tape
        number = tape.op_of_node(node) if node is not None else NO_OP
        if number == NO_OP:
            return Spoiling("", site)
        op, run = tape.ops[number], tape.run_of.get(number, -1)
        if run >= 0:
            return Spoiling(f"{tape.runs[run].cls.__name__}.apply", tape.runs[run].site)
        return Spoiling(op.name, op.site)

    @contextlib.contextmanager
    def _passing(self, backward: OpenBackward, roots: Sequence[Tensor]) -> Iterator[None]:
        """Find the gradient of a backward pass that is zero wherever it comes from.

        The graph is walked once for each kind of pass: those of one line, after the same operations.
        """
        before = self.training.backwards[-2].op if len(self.training.backwards) > 1 else self.training.start
        nodes = (root.grad_fn.name() if root.grad_fn is not None else "" for root in roots)
        names = tuple(op.name for op in self._recorder.tape.ops[before : backward.op])
        kind = (backward.site, hash(names), *nodes)
        outer, known = self._passage, self._passages.get(kind)
        try:
            if known is not None:
                self._passage = Passage(known.suspects, zero=known.zero)
                yield
            else:
                with watching(roots) as self._passage:
                    yield
                self._passages[kind] = self._passage
                self.training.dropped |= self._passage.dropped
            zero = self._passage.zero - self._passage.nonzero
            backward.zero = frozenset(backward.deposits.keys() & zero)
        finally:
            self._passage = outer

    def _drop_refused(self, backward: OpenBackward, tensors: Sequence[Tensor]) -> None:
        """Forget a backward pass that torch refused: no verdict follows from it.

        That is one from a vector, for example. One from tensors that do not require grad stays, as its cause is known.
        """
        if not backward.deposits and backward is self.training.backwards[-1]:
            if any(t.requires_grad for t in tensors):
                self.training.backwards.pop()

    def _begin(self, roots: tuple[ValueId, ...], retains: bool, site: SiteId) -> OpenBackward:
        training = self.training
        number = BackwardIndex(len(training.backwards))
        event = self._recorder.tape.event(BackwardCalled, site, number)
        backward = OpenBackward(number, event.number, event.op, site, roots, retains, self._trainable())
        backward.scaled = not self._scaled.isdisjoint(roots)
        if self._climbed[1]:
            self._note_climb(backward)
        training.backwards.append(backward)
        return backward

    def _note_climb(self, backward: OpenBackward) -> None:
        """Note a move along the gradient in the step that runs a backward pass.

        The step has not applied that gradient as descent.
        """
        (begun, backward.climbed), self._climbed = self._climbed, (0, frozenset())
        for key in backward.climbed:
            held = self._holds.get(key, {})
            held.update((number, _UNAPPLIED) for number, applied in held.items() if applied >= begun)

    def arrive(self, key: ParameterKey, gradient: Tensor | None) -> None:
        """Note the gradient that torch is about to accumulate into a parameter."""
        self._arrived[key] = gradient is not None
        if gradient is not None and self._finite is not None:
            with without_torch_function():
                self._finite.arrive(key, gradient)
        if gradient is not None and key in self._passage.suspects:
            with without_torch_function():
                if nonzero(gradient):
                    self._passage.nonzero.add(key)

    def _trainable(self) -> frozenset[ParameterKey]:
        """Return the parameters that require grad now, as the last backward pass's set if equal."""
        with without_torch_function():
            now = frozenset(key for key, p in self._parameters.items() if p.requires_grad)
        last = self.training.backwards[-1].trainable if self.training.backwards else now
        return last if now == last else now

    def _deposit(self, tensor: Tensor) -> None:
        key = ParameterKey(id(tensor))
        if key not in self._parameters or not self._arrived.pop(key, True):
            return
        if tensor.device.type == "cpu" and threading.get_ident() != self._recorder.thread:
            self.foreign.add(key)  # backward on other devices runs in threads of torch
        if key in self.foreign:
            return
        backward = self._open
        if backward is None:
            last = self.training.backwards[-1] if self.training.backwards else None
            same = last is not None and not last.roots and last.op == len(self._recorder.tape.ops)
            if same and last is not None and key not in last.deposits:
                backward = last
            else:
                backward = self._begin((), False, NO_SITE)
        self._masks.on_accumulate(key)
        held = self._holds.setdefault(key, {})
        if backward.number not in held:
            backward.deposits.setdefault(key, tuple(held))
        held[backward.number] = _UNAPPLIED
        grad = tensor.grad
        if grad is None:
            self._holds[key] = {}
        else:
            self._grads[key] = weakref.ref(grad)
            self._versions[key] = grad._version

    def read(self, tensor: Tensor) -> None:
        """Note that user code reads the gradient of a tensor."""
        if self.clearing:
            return
        key = ParameterKey(id(tensor))
        own = self._holds.get(key)
        if own:
            self._note_gradient(key)
        for held in (own,) if key in self._parameters else self._holds.values():
            for number, applied in (held or {}).items():
                if applied == _UNAPPLIED:
                    self.training.backwards[number].read = True

    def _note_gradient(self, key: ParameterKey) -> None:
        """Note the value of a gradient that user code reads: it may compute something from it."""
        with without_torch_function():
            grad = self._parameters[key].grad
        if grad is not None and grad.grad_fn is None:
            self.training.gradients[self._recorder.tensors.read(grad)] = key
            with without_torch_function(), torch.no_grad():
                self._masks.on_read(key, grad)

    # -- clears -------------------------------------------------------------------------------------------------

    def cleared(self, keys: Iterable[ParameterKey], site: SiteId) -> None:
        """Note a ``zero_grad`` over some parameters, after it has run."""
        event = self._recorder.tape.event(ZeroGradCalled, site, tuple(keys))
        self._look(event.number, site)

    def _look(self, event: EventIndex = NO_EVENT, site: SiteId = NO_SITE) -> None:
        """Find the gradients that were cleared or replaced."""
        discarded: dict[ParameterKey, tuple[BackwardIndex, ...]] = {}
        with without_torch_function(), torch.no_grad():
            for key, held in self._holds.items():
                if not held or self._still(key):
                    continue
                if self._untouched(key) and not self._overwritten(key, held):
                    self._holds[key] = dict.fromkeys(held, _ZERO)
                    continue
                lost = tuple(b for b, applied in held.items() if applied == _UNAPPLIED)
                if lost:
                    discarded[key] = lost
                self._holds[key] = {}
        if discarded:
            self.training.clears.append(Clear(event, site, discarded))

    def _still(self, key: ParameterKey) -> bool:
        """Return True if ``.grad`` is still the accumulated tensor, and not zero."""
        grad = self._parameters[key].grad
        reference = self._grads.get(key)
        if grad is None or reference is None or reference() is not grad:
            return False
        return nonzero(grad)

    def _untouched(self, key: ParameterKey) -> bool:
        """Return True if torch counts no write to a gradient since its accumulation."""
        grad = self._parameters[key].grad
        reference = self._grads.get(key)
        return (
            grad is not None and reference is not None and reference() is grad and grad._version == self._versions[key]
        )

    def _overwritten(self, key: ParameterKey, held: Iterable[BackwardIndex]) -> bool:
        """Return True if user code wrote to the memory of a gradient since it was accumulated.

        A write through ``.data`` is one that torch does not count.
        """
        grad = self._parameters[key].grad
        tensors = self._recorder.tensors
        entry = tensors.entry_of(grad) if grad is not None else None
        write = tensors.writes.get(entry.storage) if entry is not None else None
        since = max(self.training.backwards[max(held)].op, self._clipped_until.get(key, NO_OP))
        return write is not None and write[0] >= since

    # -- steps --------------------------------------------------------------------------------------------------

    def before_step(self, optimizer: Optimizer, frame: FrameType | None, args: Any, kwargs: Any) -> Any:
        """Begin an optimizer's step; return the arguments to call it with instead, or None."""
        recorder = self._recorder
        self.in_hook = True
        try:
            self.stop_if_enough()
        finally:
            self.in_hook = False
        if not self.following:  # the recording has ended with it
            return None
        self._close_open_steps()
        key = OptimizerKey(id(optimizer))
        nested = bool(self._running)
        if nested:
            running = self._running[-1]
            if key not in running.step.optimizers:
                running.step.optimizers += (key,)
            self._hold(running, optimizer)
        else:
            self._look()
            self.stepped.setdefault(key, optimizer)
            event = recorder.tape.event(StepCalled, recorder.walk(frame).site, key)
            step = OpenStep(event.number, event.op, event.site, (key,))
            running = _Running(step, frame, {}, self._round)
            self._hold(running, optimizer)
        entry = running if not nested else _Running(running.step, frame, {}, running.round)
        self._running.append(entry)
        recorder.pause()
        return self._with_closure(
            running, args, kwargs, may_climb=not type(optimizer).__module__.startswith(_TORCH_OPTIMIZERS)
        )

    def stepped_elsewhere(self, optimizer: Optimizer) -> None:
        """Note a step in another thread, whose parameters are ignored from now on."""
        self.elsewhere += 1
        self.foreign.update(ParameterKey(id(p)) for group in optimizer.param_groups for p in group["params"])
        if self.on_elsewhere is not None:
            self.on_elsewhere()

    def _hold(self, running: _Running, optimizer: Optimizer) -> None:
        if optimizer_state.is_empty(optimizer):
            running.stateless[OptimizerKey(id(optimizer))] = optimizer
        self.follow(p for g in optimizer.param_groups for p in g["params"] if isinstance(p, Tensor))
        with without_torch_function(), torch.no_grad():
            for group in optimizer.param_groups:
                lr = number(group.get("lr"))
                for p in group["params"]:
                    key = ParameterKey(id(p))
                    if key in running.parameters or not isinstance(p, Tensor):
                        continue
                    running.parameters[key] = (p, lr)
                    self._recorder.announce_write(p)
                    if p.layout == torch.strided and is_readable(p):
                        running.before[key] = p.detach().clone()

    def _with_closure(self, running: _Running, args: Any, kwargs: Any, *, may_climb: bool) -> Any:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            return None
        recorder = self._recorder

        def evaluated(*arguments: Any, **named: Any) -> Any:
            running.evaluations += 1
            frozen = _frozen_values(running)
            if may_climb:
                self._climbed = running.round, _moved_uphill(running)
            try:
                with recorder.resuming():
                    return closure(*arguments, **named)
            finally:
                self._climbed = running.round, frozenset()
                _carry_over(running, frozen)
                self._look()
                self._apply(running)

        if len(args) > 1:
            return (args[0], evaluated, *args[2:]), kwargs
        return args, {**kwargs, "closure": evaluated}

    def after_step(self, optimizer: Optimizer) -> None:
        """End an optimizer's step."""
        if not self._running:
            return
        entry = self._forget_running()
        entry.frame = None
        if self._running:
            return
        if not entry.evaluations:
            self._apply(entry)
        step = entry.step
        with without_torch_function(), torch.no_grad():
            for key, (p, _) in entry.parameters.items():
                before = entry.before.get(key)
                content = step.content.get(key)
                if before is None or content is None or not is_readable(p):
                    continue
                updates, lost = count_updates(p, before)
                moves_masked, lifts_mask = self._masks.on_step(key, p, before)
                spoilt = any(key in self.training.backwards[b].spoilt for b in content.backwards)
                step.content[key] = content._replace(
                    moved=not same_values(p.detach(), before),
                    moves_masked=moves_masked,
                    lifts_mask=lifts_mask,
                    updates=updates,
                    lost_updates=lost,
                    spoilt=spoilt and bool(before.isfinite().all()) and not bool(p.isfinite().all()),
                )
        index = StepIndex(len(self.training.steps))
        # a step that evaluates its closure again and again is many in one: its state lasts between them
        stateless = entry.stateless.items() if entry.evaluations <= 1 else ()
        starts = frozenset(key for key, o in stateless if optimizer_state.is_kept(o))
        self.training.steps.append(step.finished(index, starts))
        for backward in {b for c in step.content.values() for b in c.backwards}:
            self.training.backwards[backward].applied_by.add(index)
        self._recorder.tensors.rebase(p for p, _ in entry.parameters.values())
        self.marks.append(mark(self._recorder))

    def _apply(self, running: _Running) -> None:
        """Mark the gradients of the step's parameters as applied now."""
        content = running.step.content
        with without_torch_function(), torch.no_grad():
            for key, (p, lr) in running.parameters.items():
                held = self._holds.get(key, {})
                fresh = any(applied == _UNAPPLIED for applied in held.values())
                stale = tuple(b for b, applied in held.items() if applied >= 0) if fresh else ()
                summed = tuple(b for b, applied in held.items() if applied != _ZERO) or tuple(held)
                before_step = content.get(key)
                before: tuple[BackwardIndex, ...] = before_step.backwards if before_step else ()
                flows = fresh or any(a != _ZERO for a in held.values()) or (not held and _has_gradient(p))
                content[key] = Content(
                    tuple(dict.fromkeys((*before, *summed))),
                    tuple(dict.fromkeys((*(before_step.stale if before_step else ()), *stale))),
                    p.grad is not None,
                    p.requires_grad,
                    lr,
                    None,
                    flows,
                    at_zero=not flows and p.grad is not None and not nonzero(p),
                )
                for b in held:
                    if held[b] == _UNAPPLIED:
                        held[b] = self._round
        self._round += 1

    def _close_open_steps(self) -> None:
        """Drop steps that ended in an exception.

        torch calls its post hook only for steps that return.
        """
        while self._running and not _on_stack(self._running[-1].frame):
            self._forget_running()

    def _forget_running(self) -> _Running:
        self._recorder.resume()
        return self._running.pop()

    def stop_if_enough(self) -> None:
        """End the user's training if enough of it is recorded.

        Raises:
            EnoughRecorded: enough is recorded.
        """
        if self.stopping():
            raise EnoughRecorded

    # -- clips, schedules, scalers ------------------------------------------------------------------------------

    def unwritten(self) -> frozenset[ParameterKey]:
        """Return the parameters whose gradient is as a backward pass left it."""
        with without_torch_function():
            held = [(key, passes) for key, passes in self._holds.items() if passes and self._untouched(key)]
            return frozenset(key for key, passes in held if not self._overwritten(key, passes))

    def clipped(
        self,
        keys: Iterable[ParameterKey],
        event: EventIndex,
        site: SiteId,
        exhausted: bool,
        measures: bool,
        scaled_only: Set[ParameterKey],
    ) -> None:
        """Note that the gradients of some parameters were clipped.

        Args:
            keys: the parameters.
            event: number of the event of the call.
            site: site of the call.
            exhausted: whether its iterator of parameters was already used up.
            measures: whether its limit is infinite.
            scaled_only: the parameters whose gradient is zero after the clip only if it was before.
        """
        ops = OpIndex(len(self._recorder.tape.ops))
        fresh: list[ParameterKey] = []
        applied: list[ParameterKey] = []
        scaled: list[ParameterKey] = []
        for key in keys:
            held = self._holds.get(key)
            if not held:
                continue
            (fresh if _UNAPPLIED in held.values() else applied).append(key)
            if key in scaled_only:
                with without_torch_function():
                    self._versions[key] = getattr(self._parameters[key].grad, "_version", -1)
                self._clipped_until[key] = ops
            if any(self.training.backwards[b].scaled and b not in self._unscaled for b in held):
                scaled.append(key)
        clip = Clip(event, site, exhausted, measures, tuple(fresh), tuple(applied), tuple(scaled))
        self.training.clips.append(clip)

    def gradients(self) -> Iterator[tuple[ParameterKey, Tensor]]:
        """Yield (identity of the parameter, gradient) of those that have one."""
        for key, p in self._parameters.items():
            grad = p.grad
            if grad is not None:
                yield key, grad

    @contextlib.contextmanager
    def scheduled(self, scheduler: Any, made_at: SiteId, site: SiteId) -> Iterator[None]:
        """Note that user code steps a scheduler, and the rates that the call changes."""
        optimizer = getattr(scheduler, "optimizer", None)
        key = OptimizerKey(id(optimizer))
        event = self._recorder.tape.event(SchedulerStepCalled, site, key)
        before = _rates(optimizer)
        try:
            yield
        finally:
            after = _rates(optimizer)
            changed = frozenset(i for i, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
            base_rates = getattr(scheduler, "base_lrs", None)
            known = len(base_rates if isinstance(base_rates, list) else after)
            by_metric = isinstance(scheduler, ReduceLROnPlateau)
            self.training.schedules.append(Schedule(event.number, site, key, made_at, known, changed, by_metric))

    def attempted(self, optimizer: OptimizerKey, site: SiteId) -> None:
        """Note that user code asks a gradient scaler to step an optimizer."""
        event = self._recorder.tape.event(ScalerStepCalled, site, optimizer)
        self.training.attempts.append((event.number, optimizer))
        self._unscaled.update(b.number for b in self.training.backwards)

    def scaled(self, outputs: Any) -> None:
        """Note the outputs of a gradient scaler."""
        self._scaled.update(self._recorder.tensors.read(t) for t in tensors_in(outputs))

    def unscaled(self, optimizer: Any) -> None:
        """Note that a gradient scaler divides the gradients of an optimizer."""
        for group in optimizer.param_groups:
            for p in group["params"]:
                self._unscaled.update(self._holds.get(ParameterKey(id(p)), ()))


def _is_own(hook: Any) -> bool:
    """Return True if a hook of a tensor belongs to a recording."""
    return isinstance(hook, Arrival) or isinstance(getattr(hook, "__self__", None), Ledger)


def _frozen_values(running: _Running) -> dict[ParameterKey, Tensor]:
    """Return copies of the frozen parameters of a step, as they are now."""
    with without_torch_function(), torch.no_grad():
        held = ((key, p) for key, (p, _) in running.parameters.items() if key in running.before)
        return {key: p.detach().clone() for key, p in held if not p.requires_grad and is_readable(p)}


def _moved_uphill(running: _Running) -> frozenset[ParameterKey]:
    """Return the parameters that a step has moved along their gradient, in each entry moved."""
    climbed: set[ParameterKey] = set()
    entries = 0
    with without_torch_function(), torch.no_grad():
        for key, (p, _) in running.parameters.items():
            before, gradient = running.before.get(key), p.grad
            if before is None or gradient is None or not is_readable(p) or not is_readable(gradient):
                continue
            if not before.shape == p.shape == gradient.shape or gradient.layout != torch.strided:
                continue
            move = (p.detach() - before).sign()
            moved = move != 0
            count = int(moved.sum())
            if count and bool((move == gradient.sign())[moved].all()):
                climbed.add(key)
                entries += count
    return frozenset(climbed) if entries >= _CLIMBING_ENTRIES else frozenset()


def _carry_over(running: _Running, frozen: Mapping[ParameterKey, Tensor]) -> None:
    """Count what a closure wrote into frozen parameters as no change by their optimizer.

    `frozen` holds their values when the closure began; those that the optimizer had moved by then keep the older ones.
    """
    with without_torch_function(), torch.no_grad():
        for key, start in frozen.items():
            now = running.parameters[key][0].detach()
            if is_readable(now) and not same_values(now, start) and same_values(start, running.before[key]):
                running.before[key] = now.clone()


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.grad is not None and nonzero(tensor.grad)


def _rates(optimizer: Any) -> list[float | None]:
    """Return the learning rate of each group of an optimizer."""
    return [number(group.get("lr")) for group in getattr(optimizer, "param_groups", ())]


def number(value: Any) -> float | None:
    """Return a number as a float; None for anything else."""
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def _on_stack(frame: FrameType | None) -> bool:
    current: FrameType | None = sys._getframe(1)
    while current is not None:
        if current is frame:
            return True
        current = current.f_back
    return False
