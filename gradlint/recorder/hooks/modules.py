"""Hook modules: registrations, calls, train mode, freezes, loads and conversions."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from gradlint.recorder.calls.call_chains import OpenCall
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.facts.loaded_state import ignored_state, own_state
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import patch, register
from gradlint.recorder.hooks.pretrained import is_pretrained_on_nothing
from gradlint.system.undo import Undo
from gradlint.traces.events import (
    ChildRegistration,
    ModeSwitch,
    ParameterRegistration,
    ParametersExchanged,
    StateLoaded,
)
from gradlint.traces.ids import (
    NO_MODULE,
    EventIndex,
    ParameterKey,
    SiteId,
)
from gradlint.traces.ops import ModuleCall


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog) -> None:
    """Set the hooks until `undo` removes them."""
    register(
        undo,
        module_hooks._global_parameter_registration_hooks,
        module_hooks.register_module_parameter_registration_hook,
        _on_parameter(recorder, log),
    )
    register(
        undo,
        module_hooks._global_module_registration_hooks,
        module_hooks.register_module_module_registration_hook,
        _on_module(recorder, log),
    )
    patch(undo, nn.Module, "__call__", _module_call, recorder, log)
    patch(undo, torch.jit.ScriptFunction, "__call__", _script_function_call, recorder)
    patch(undo, nn.Module, "train", _train, recorder, log)
    patch(undo, nn.Module, "requires_grad_", _requires_grad, recorder, log)
    patch(undo, nn.Module, "load_state_dict", _load_state_dict, recorder, log)
    patch(undo, nn.Module, "_apply", _apply, recorder, log)


def _on_parameter(recorder: Recorder, log: HookLog) -> Callable[[nn.Module, str, Any], None]:
    def hook(module: nn.Module, name: str, parameter: Any) -> None:
        if parameter is not None and recorder.paused and log.registrations is not None:
            log.registrations.append(recorder.walk(sys._getframe(1)).site)
        if parameter is None or recorder.paused:
            return
        # A lazy parameter has neither shape nor memory, and is followed only from the forward on.
        first = is_lazy(parameter) or recorder.tensors.watch(parameter)
        from_nothing = is_pretrained_on_nothing(sys._getframe(1))
        recorder.event(
            ParameterRegistration, log.number(module), name, ParameterKey(id(parameter)), first, from_nothing
        )

    return hook


def _on_module(recorder: Recorder, log: HookLog) -> Callable[[nn.Module, str, Any], None]:
    def hook(module: nn.Module, name: str, child: Any) -> None:
        if child is not None and not recorder.paused:
            averaged = None
            if name == "module" and isinstance(module, DistributedDataParallel):
                averaged = frozenset(ParameterKey(id(p)) for p in nn.Module.parameters(child) if p.requires_grad)
            recorder.event(ChildRegistration, log.number(module), name, log.number(child), averaged)

    return hook


def _module_call(original: Any, recorder: Recorder, log: HookLog) -> Any:
    """Wrap ``Module.__call__``.

    Module hooks would make torch take its slow path, and would miss a BaseException.
    """
    calls, ops = recorder.tape.calls, recorder.tape.ops
    walk, thread = recorder.chains.walk, recorder.thread
    get_ident = threading.get_ident

    def gradlint_sees_module_call(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if recorder.paused or get_ident() != thread:
            return original(self, *args, **kwargs)
        frame = sys._getframe()
        identity = id(frame)
        site, apply, _, _, _, run = chain = walk(frame.f_back)
        if apply is not None:
            run = recorder.function_run(apply, chain)
        # a frame that refers to itself would keep the output alive until the next collection
        del frame, apply, chain
        if recorder.module_filter is not None and not recorder.module_filter(self, not calls):
            with recorder.pausing():
                return original(self, *args, **kwargs)
        parent = calls[-1].number if calls else -1
        number = len(log.calls)
        log.calls.append(tuple.__new__(ModuleCall, (log.number(self), parent, site, self.training, len(ops))))
        depth = len(calls)
        calls.append(tuple.__new__(OpenCall, (number, identity, site, run)))
        try:
            result = original(self, *args, **kwargs)
            if isinstance(self, torch.jit.ScriptModule):
                _scripted(recorder, self, args, kwargs, result, site, run)
            return result
        finally:
            del calls[depth:]

    return gradlint_sees_module_call


def _scripted(
    recorder: Recorder, module: nn.Module, args: Any, kwargs: Mapping[str, Any], output: Any, site: SiteId, run: int
) -> None:
    inputs = tensors_in((args, kwargs))
    recorder.opaque(f"scripted {type(module).__name__}", inputs, list(nn.Module.parameters(module)), output, site, run)
    recorder.tape.note_unseen("a scripted module: what runs inside it was not seen op by op", site)


def _script_function_call(original: Any, recorder: Recorder) -> Any:
    """Record a call of a scripted or traced function, which passes no function mode."""

    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not recorder.active:
            return original(self, *args, **kwargs)
        _, apply, _, _, _, run = chain = recorder.walk(sys._getframe(1))
        if apply is not None:
            run = recorder.function_run(apply, chain)
        result = original(self, *args, **kwargs)
        recorder.opaque(self.name, tensors_in((args, kwargs)), [], result, chain.site, run)
        recorder.tape.note_unseen(
            f"the scripted function {self.name}: what runs inside it was not seen op by op", chain.site
        )
        return result

    return __call__


def _train(original: Any, recorder: Recorder, log: HookLog) -> Any:
    depth = 0

    def train(self: nn.Module, mode: bool = True) -> Any:
        nonlocal depth
        if depth == 0 and not recorder.paused and not isinstance(self, torch.jit.ScriptModule):
            number = log.number(self)
            changed = frozenset(log.number(m) for m in nn.Module.modules(self) if m.training is not bool(mode))
            recorder.event(ModeSwitch, number, bool(mode), changed)
        depth += 1
        try:
            return original(self, mode)
        finally:
            depth -= 1

    return train


def _requires_grad(original: Any, recorder: Recorder, log: HookLog) -> Any:
    def requires_grad_(self: nn.Module, requires_grad: bool = True) -> Any:
        outer, recorder.through = recorder.through, log.number(self)
        try:
            return original(self, requires_grad)
        finally:
            recorder.through = outer

    return requires_grad_


def _load_state_dict(original: Any, recorder: Recorder, log: HookLog) -> Any:
    def load_state_dict(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        tape = recorder.tape
        op, event = len(tape.ops), EventIndex(len(tape.events))
        state = args[0] if args else kwargs.get("state_dict")
        own: frozenset[ParameterKey] = frozenset()
        if recorder.active:
            try:
                own = own_state(recorder, self, state)
            except Exception as error:
                recorder.give_up(error)
        outer, recorder.tensors.loading = recorder.tensors.loading, log.number(self)
        try:
            result = original(self, *args, **kwargs)
        finally:
            recorder.tensors.loading = outer
        if recorder.active and outer == NO_MODULE:
            try:
                unexpected = getattr(result, "unexpected_keys", ())
                ignored = ignored_state(recorder, self, state, unexpected, op, event)
                recorder.event(StateLoaded, log.number(self), event, ignored, own)
            except Exception as error:
                recorder.give_up(error)
        return result

    return load_state_dict


def _apply(original: Any, recorder: Recorder, log: HookLog) -> Any:
    def _apply(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        outer, recorder.tensors.converting = recorder.tensors.converting, True
        before = (
            None if outer or not recorder.active else dict(nn.Module.named_parameters(self, remove_duplicate=False))
        )
        try:
            result = original(self, *args, **kwargs)
        finally:
            recorder.tensors.converting = outer
        if before:
            _note_exchange(recorder, log, self, before, sys._getframe(1).f_code.co_name)
        return result

    return _apply


def _note_exchange(
    recorder: Recorder, log: HookLog, module: nn.Module, before: Mapping[str, nn.Parameter], how: str
) -> None:
    """Note the parameters that a conversion exchanged instead of changing their data.

    No hook of torch shows them.
    """
    after = nn.Module.named_parameters(module, remove_duplicate=False)
    exchanged = [(before[n], p) for n, p in after if n in before and before[n] is not p]
    if exchanged:
        for _, parameter in exchanged:
            recorder.tensors.watch(parameter)
        keys = tuple((ParameterKey(id(old)), ParameterKey(id(new))) for old, new in exchanged)
        recorder.event(ParametersExchanged, log.number(module), how, keys)
        recorder.tensors.keep += before.values()
