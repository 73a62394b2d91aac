"""Hook what copies, wraps and exchanges tensors without a call of a torch function."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.patching import patch
from gradlint.restore.global_state import without_torch_function
from gradlint.system.undo import Undo
from gradlint.traces.ops import KIND_PLAIN


def install_hooks(undo: Undo, recorder: Recorder) -> None:
    """Set the hooks until `undo` removes them."""
    patch(undo, nn.Parameter, "__deepcopy__", _deepcopy, recorder)
    patch(undo, torch.utils, "swap_tensors", _swap_tensors, recorder)
    _patch_variable(undo, recorder)


def _deepcopy(original: Any, recorder: Recorder) -> Any:
    def __deepcopy__(self: nn.Parameter, memo: Any) -> Any:
        result = original(self, memo)
        if recorder.active and result is not self:
            recorder.tensors.watch(result, copied=self)
        return result

    return __deepcopy__


def _swap_tensors(original: Any, recorder: Recorder) -> Any:
    """Record the exchange of two tensors' contents as a write to both.

    It passes no function mode.
    """

    def swap_tensors(t1: Tensor, t2: Tensor) -> Any:
        both = [t1, t2]
        with without_torch_function():
            read = tuple(recorder.tensors.read(t) for t in both) if recorder.active else ()
            for tensor in both:
                recorder.tensors.release(tensor)
            result = original(t1, t2)
            if read:
                recorder.exchange(both, read, recorder.walk(sys._getframe(1)).site)
        return result

    return swap_tensors


def _patch_variable(undo: Undo, recorder: Recorder) -> None:
    """Record ``Variable(t)`` and ``nn.Parameter(t)``, which pass no function mode, as ops.

    Both return a new leaf. Their metaclasses are patched, as user code may have imported the classes before.
    Parameters created before the forward are followed from their registration on.
    """

    def patch(cls: Any, name: str, recording: Callable[[], bool]) -> None:
        meta: Any = type(cls)
        if meta is type or "__call__" in meta.__dict__:
            return

        def __call__(called: Any, *args: Any, **kwargs: Any) -> Any:
            result = type.__call__(called, *args, **kwargs)
            data = args[0] if args else kwargs.get("data")
            if recorder.active and isinstance(data, Tensor):
                recorder.tensors.note_allocation(result, data)
            if recorder.active and recording() and isinstance(data, Tensor) and isinstance(result, Tensor):
                site = recorder.walk(sys._getframe(1)).site
                recorder.opaque(name, [data], [], result, site, -1, kind=KIND_PLAIN)
            return result

        undo.replace(meta, "__call__", __call__)

    patch(torch.autograd.Variable, "Variable", lambda: True)
    patch(nn.Parameter, "Parameter", lambda: recorder.tensors.running)
