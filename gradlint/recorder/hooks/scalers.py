"""Hook gradient scalers."""

from __future__ import annotations

import contextlib
import inspect
import sys
from typing import Any

import torch

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.hooks.patching import on_recorder_thread, patch
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.system.undo import Undo
from gradlint.traces.events import ScalerStepCalled
from gradlint.traces.ids import OptimizerKey, ParameterKey


def install_hooks(undo: Undo, recorder: Recorder, log: HookLog, ledger: Ledger) -> None:
    """Set the hooks until `undo` removes them."""
    scaler = getattr(getattr(torch, "amp", None), "GradScaler", None)
    if scaler is not None:
        patch(undo, scaler, "__init__", _scaler_init, log)
        patch(undo, scaler, "scale", _scale, recorder, log, ledger)
        patch(undo, scaler, "unscale_", _unscale, recorder, ledger)
        patch(undo, scaler, "step", _scaler_step, recorder, ledger)


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
        if asked and ledger.following and on_recorder_thread(recorder):
            ledger.scaling.scaled(result)
        return result

    return scale


def _unscale(original: Any, recorder: Recorder, ledger: Ledger) -> Any:
    def unscale_(self: Any, optimizer: Any) -> Any:
        ledger.reads.by_torch += 1
        try:
            result = original(self, optimizer)
        finally:
            ledger.reads.by_torch -= 1
        if ledger.following and on_recorder_thread(recorder):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    ledger.scaling.unscaled(ledger.accumulated.passes(ParameterKey(id(p))))
        return result

    return unscale_


def _scaler_step(original: Any, recorder: Recorder, ledger: Ledger) -> Any:
    def step(self: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Any:
        if ledger.following and on_recorder_thread(recorder):
            key = OptimizerKey(id(optimizer))
            event = recorder.tape.event(ScalerStepCalled, recorder.walk(sys._getframe(1)).site, key)
            ledger.training.attempts.append((event.number, key))
            ledger.scaling.all_unscaled()
        return original(self, optimizer, *args, **kwargs)

    return step
