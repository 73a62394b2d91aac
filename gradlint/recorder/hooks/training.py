"""Hook training for the ledger: backward passes, clears and optimizer steps."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer
from torch.optim import optimizer as optimizer_hooks

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import on_recorder_thread, patch, register
from gradlint.recorder.hooks.uncompiled import without_compiler_guard
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.restore.global_state import without_torch_function
from gradlint.system.undo import Undo
from gradlint.traces.events import BackwardCalled, StepCalled
from gradlint.traces.ids import ModuleIndex, OptimizerKey, ParameterKey


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
        if not ledger.following or recorder.paused or not on_recorder_thread(recorder):
            if on_recorder_thread(recorder) and not recorder.paused:
                recorder.event(BackwardCalled, None)
            return original(tensors, *args, **kwargs)
        retains = any(map(bool, args[1:3])) or bool(kwargs.get("retain_graph") or kwargs.get("create_graph"))
        # the site is passed, not the frame, which would keep the user's objects alive
        with ledger.backward(tensors, retains, recorder.walk(sys._getframe(1)).site):
            before = counters.read()
            result = original(tensors, *args, **kwargs)
            if before:
                now = counters.read()
                ledger.passes.recounted(frozenset(n for n, count in before.items() if now.get(n, count) != count))
            return result

    backward.__doc__ = original.__doc__
    return backward


def _before_step(recorder: Recorder, log: HookLog, ledger: Ledger) -> Callable[[Optimizer, Any, Any], Any]:
    def hook(optimizer: Optimizer, args: Any, kwargs: Any) -> Any:
        if not on_recorder_thread(recorder):
            if ledger.following and not recorder.paused:
                ledger.other_threads.stepped(optimizer)
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
        if ledger.following and on_recorder_thread(recorder):
            ledger.steps.after()
        elif log.steps and not recorder.paused and on_recorder_thread(recorder):
            log.steps[-1] = range(log.steps[-1].start, len(recorder.tape.ops))

    return hook


def _held_by_optimizer(optimizer: Any) -> list[ParameterKey]:
    return [ParameterKey(id(p)) for group in optimizer.param_groups for p in group["params"]]


def _held_by_module(module: Any) -> list[ParameterKey]:
    return [ParameterKey(id(p)) for p in nn.Module.parameters(module)]


def _zero_grad(original: Any, recorder: Recorder, ledger: Ledger, held: Callable[[Any], list[ParameterKey]]) -> Any:
    def zero_grad(self: Any, *args: Any, **kwargs: Any) -> Any:
        ledger.reads.by_torch += 1
        try:
            result = without_compiler_guard(original)(self, *args, **kwargs)
        finally:
            ledger.reads.by_torch -= 1
        if ledger.following and on_recorder_thread(recorder):
            ledger.cleared(held(self), recorder.walk(sys._getframe(1)).site)
        return result

    return zero_grad


def _swap_tensors(original: Any, ledger: Ledger) -> Any:
    def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
        ledger.accumulated.release(t1, t2)
        return original(t1, t2)

    return swap_tensors
