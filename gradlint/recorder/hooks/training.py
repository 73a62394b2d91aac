"""Hook training for the ledger: backward passes, clears, optimizer steps, schedulers, scalers and clips.

`install_hooks` sets the hooks for the time of a recording and removes every one of them.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import sys
import threading
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks
from torch.optim.lr_scheduler import LRScheduler

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.modules import HookLog, is_exhausted, patch, register
from gradlint.recorder.hooks.uncompiled import without_compiler_guard
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.restore.global_state import without_torch_function
from gradlint.traces.events import BackwardCalled, StepCalled
from gradlint.traces.ids import NO_SITE, EventIndex, ModuleIndex, OptimizerKey, ParameterKey, SiteId
from gradlint.undo import Undo

_OPTIM = os.path.join("torch", "optim") + os.sep
_SEEN = "_gradlint_sees_steps"
"""Mark of the step functions of schedulers that are hooked."""
_CLIP = os.path.join("nn", "utils", "clip_grad.py")


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog, ledger: Ledger) -> None:
    """Set the hooks until `undo` removes them."""
    register(
        undo,
        optimizer_hooks._global_optimizer_pre_hooks,
        optimizer_hooks.register_optimizer_step_pre_hook,
        _before_step(recorder, log, ledger),
    )
    register(
        undo,
        optimizer_hooks._global_optimizer_post_hooks,
        optimizer_hooks.register_optimizer_step_post_hook,
        _after_step(recorder, log, ledger),
    )
    patch(undo, torch.autograd, "backward", _backward, recorder, ledger, _Counters(log))
    patch(undo, Optimizer, "zero_grad", _zero_grad, recorder, ledger, _held_by_optimizer)
    patch(undo, nn.Module, "zero_grad", _zero_grad, recorder, ledger, _held_by_module)
    patch(undo, torch.utils, "swap_tensors", _swap_tensors, ledger)
    running: set[int] = set()  # the schedulers whose step has not returned
    patch(undo, LRScheduler, "__init__", _scheduler_init, recorder, log, ledger, undo, running)
    for cls in _with_own_step(LRScheduler):
        patch(undo, cls, "step", _scheduler_step, recorder, log, ledger, running)
    scaler = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if scaler is not None:
        patch(undo, scaler, "__init__", _scaler_init, log)
        patch(undo, scaler, "scale", _scale, recorder, log, ledger)
        patch(undo, scaler, "unscale_", _unscale, recorder, ledger)
        patch(undo, scaler, "step", _scaler_step, recorder, ledger)
    recorder.notify(_Clips(recorder, ledger))


def _on_recorder_thread(recorder: Recorder) -> bool:
    return threading.get_ident() == recorder.thread


class _Counters:
    """The batch norms seen so far, and how often each has counted a batch."""

    def __init__(self, log: HookLog) -> None:
        self._log = log
        self._norms: list[tuple[ModuleIndex, Any]] = []
        self._looked_at = 0

    def read(self) -> dict[ModuleIndex, int]:
        """Return norm in train mode → number of writes to its counter."""
        modules = self._log.modules
        for number in range(self._looked_at, len(modules)):
            if isinstance(modules[number], _BatchNorm):
                self._norms.append((ModuleIndex(number), modules[number]))
        self._looked_at = len(modules)
        with without_torch_function():
            counters = [(number, norm.num_batches_tracked) for number, norm in self._norms if norm.training]
            return {number: counter._version for number, counter in counters if isinstance(counter, Tensor)}


def _backward(original: Any, recorder: Recorder, ledger: Ledger, counters: _Counters) -> Any:
    def backward(tensors: Any, *args: Any, **kwargs: Any) -> Any:
        if not ledger.following or recorder.paused or not _on_recorder_thread(recorder):
            if _on_recorder_thread(recorder) and not recorder.paused:
                recorder.event(BackwardCalled, None)
            return original(tensors, *args, **kwargs)
        retains = any(map(bool, args[1:3])) or bool(kwargs.get("retain_graph") or kwargs.get("create_graph"))
        # the site is passed, not the frame, which would keep the user's objects alive
        with ledger.backward(tensors, retains, recorder.walk(sys._getframe(1)).site):
            before = counters.read()
            result = original(tensors, *args, **kwargs)
            if before:
                now = counters.read()
                ledger.recounted(frozenset(n for n, count in before.items() if now.get(n, count) != count))
            return result

    backward.__doc__ = original.__doc__
    return backward


def _before_step(recorder: Recorder, log: HookLog, ledger: Ledger) -> Callable[[Optimizer, Any, Any], Any]:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not _on_recorder_thread(recorder):
            if ledger.following and not recorder.paused:
                ledger.stepped_elsewhere(optimizer)
            return None
        if not ledger.following:
            if not recorder.paused:
                event = recorder.event(StepCalled, OptimizerKey(id(optimizer)))
                log.steps.append(range(event.op, event.op))
            return None
        return ledger.before_step(optimizer, sys._getframe(1), args, kwargs)

    return hook


def _after_step(recorder: Recorder, log: HookLog, ledger: Ledger) -> Callable[[Optimizer, Any, Any], None]:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if ledger.following and _on_recorder_thread(recorder):
            ledger.after_step(optimizer)
        elif log.steps and not recorder.paused and _on_recorder_thread(recorder):
            log.steps[-1] = range(log.steps[-1].start, len(recorder.tape.ops))

    return hook


def _held_by_optimizer(optimizer: Any) -> list[ParameterKey]:
    return [ParameterKey(id(p)) for group in optimizer.param_groups for p in group["params"]]


def _held_by_module(module: Any) -> list[ParameterKey]:
    return [ParameterKey(id(p)) for p in nn.Module.parameters(module)]


def _zero_grad(original: Any, recorder: Recorder, ledger: Ledger, held: Callable[[Any], list[ParameterKey]]) -> Any:
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        ledger.clearing += 1
        try:
            result = without_compiler_guard(original)(self, *args, **kwargs)
        finally:
            ledger.clearing -= 1
        if ledger.following and _on_recorder_thread(recorder):
            ledger.cleared(held(self), recorder.walk(sys._getframe(1)).site)
        return result

    return zero_grad


def _swap_tensors(original: Any, ledger: Ledger) -> Any:
    def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
        ledger.release(t1, t2)
        return original(t1, t2)

    return swap_tensors


# -- schedulers ---------------------------------------------------------------------------------------------------


def _with_own_step(cls: type) -> list[type]:
    subclasses: list[type] = cls.__subclasses__()
    classes = [cls] if "step" in cls.__dict__ else []
    return classes + [c for subclass in subclasses for c in _with_own_step(subclass)]


def _scheduler_init(
    original: Any, recorder: Recorder, log: HookLog, ledger: Ledger, undo: Undo, running: set[int]
) -> Any:
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        if _on_recorder_thread(recorder) and not recorder.paused:
            frame: FrameType | None = sys._getframe(1)
            while frame is not None and local_variables(frame).get("self") is self:
                frame = frame.f_back
            log.schedulers.append((self, recorder.walk(frame).site))
        for cls in type(self).__mro__:  # classes that were defined since the recording began
            step = cls.__dict__.get("step")
            if step is not None and not hasattr(step, _SEEN) and issubclass(cls, LRScheduler):
                patch(undo, cls, "step", _scheduler_step, recorder, log, ledger, running)
        original(self, *args, **kwargs)

    return __init__


def _scheduler_step(original: Any, recorder: Recorder, log: HookLog, ledger: Ledger, running: set[int]) -> Any:
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        # a scheduler steps itself on construction, some schedulers step others, and some call the step of their base
        by_torch = _OPTIM in sys._getframe(1).f_code.co_filename
        if id(self) in running or not _on_recorder_thread(recorder):
            return original(self, *args, **kwargs)
        running.add(id(self))
        try:
            if not ledger.following or by_torch or recorder.paused:
                return original(self, *args, **kwargs)
            made_at = next((site for scheduler, site in log.schedulers if scheduler is self), NO_SITE)
            with ledger.scheduled(self, made_at, recorder.walk(sys._getframe(1)).site):
                return original(self, *args, **kwargs)
        finally:
            running.discard(id(self))

    setattr(step, _SEEN, True)
    return step


# -- scalers ------------------------------------------------------------------------------------------------------


def _scaler_init(original: Any, log: HookLog) -> Any:
    signature = inspect.signature(original)

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        with contextlib.suppress(TypeError):
            # without a GPU torch disables it; the user's argument decides on a machine with one
            asked = signature.bind(self, *args, **kwargs).arguments.get("enabled", True)
            log.scalers.append((self, bool(asked)))

    return __init__


def _scale(original: Any, recorder: Recorder, log: HookLog, ledger: Ledger) -> Any:
    def scale(self: Any, outputs: Any) -> Any:
        result = original(self, outputs)
        asked = next((asked for scaler, asked in log.scalers if scaler is self), self.is_enabled())
        if asked and ledger.following and _on_recorder_thread(recorder):
            ledger.scaled(result)
        return result

    return scale


def _unscale(original: Any, recorder: Recorder, ledger: Ledger) -> Any:
    def unscale_(self: Any, optimizer: Any) -> Any:
        ledger.clearing += 1
        try:
            result = original(self, optimizer)
        finally:
            ledger.clearing -= 1
        if ledger.following and _on_recorder_thread(recorder):
            ledger.unscaled(optimizer)
        return result

    return unscale_


def _scaler_step(original: Any, recorder: Recorder, ledger: Ledger) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if ledger.following and _on_recorder_thread(recorder):
            ledger.attempted(OptimizerKey(id(optimizer)), recorder.walk(sys._getframe(1)).site)
        return original(self, optimizer, *args, **kwargs)

    return step


# -- clips --------------------------------------------------------------------------------------------------------


class _Clip(NamedTuple):
    """A call of a torch clip function that has not returned."""

    event: EventIndex
    """Number of the event of its switch of grad mode."""
    site: SiteId
    op: int
    """Number of ops recorded before it."""
    exhausted: bool
    """True if its iterator of parameters was already used up."""
    measures: bool
    """True if its limit is infinite: it only measures the norm."""
    scaled_only: frozenset[ParameterKey]
    """The parameters whose gradient is zero after the clip only if it was before."""


class _Clips:
    """Follows torch's clip functions, under whatever name they were imported: they run with grad mode off."""

    def __init__(self, recorder: Recorder, ledger: Ledger) -> None:
        self._recorder = recorder
        self._ledger = ledger
        self._running: _Clip | None = None

    def grad_switched_off(self, event: EventIndex, site: SiteId, library: CodeType | None) -> None:
        """Take note of a clip that begins."""
        if library is None or not library.co_filename.endswith(_CLIP):
            return
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and not (
            frame.f_code.co_filename.endswith(_CLIP) and "args" in frame.f_code.co_varnames
        ):
            frame = frame.f_back
        if frame is None:
            return
        variables = local_variables(frame)
        args, kwargs = variables["args"], variables.get("kwargs", {})
        parameters = args[0] if args else kwargs.get("parameters")
        limit = args[1] if len(args) > 1 else kwargs.get("max_norm", kwargs.get("clip_value"))
        measures = isinstance(limit, (int, float)) and limit == float("inf")
        scaled_only = self._ledger.unwritten() if limit != 0 else frozenset()
        self._running = _Clip(
            event, site, len(self._recorder.tape.ops), is_exhausted(parameters), measures, scaled_only
        )

    def grad_switched_on(self) -> None:
        """Report a clip that ends to the ledger."""
        clip, self._running = self._running, None
        ledger, tensors = self._ledger, self._recorder.tensors
        if clip is None or not ledger.following:
            return
        touched = {v for op in self._recorder.tape.ops[clip.op :] for v in (*op.inputs, *op.outputs)}
        entries = ((key, tensors.entry_of(grad)) for key, grad in ledger.gradients())
        keys = [key for key, entry in entries if entry is not None and entry.value in touched]
        ledger.clipped(keys, clip.event, clip.site, clip.exhausted, clip.measures, clip.scaled_only)

    def gradient_read(self, tensor: Tensor) -> None:
        """Report a read of a gradient to the ledger, unless a clip function makes it."""
        if self._running is None:
            self._ledger.read(tensor)
