"""Hook inference mode, which ends and begins the recording of gradient as ``no_grad`` does."""

from __future__ import annotations

import sys
from typing import Any

from torch.autograd.grad_mode import inference_mode

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.patching import patch
from gradlint.system.undo import Undo
from gradlint.traces.ids import (
    EventIndex,
)
from gradlint.traces.ops import GRAD_ON


def install_hooks(undo: Undo, recorder: Recorder) -> None:
    """Set the hooks until `undo` removes them."""
    regions: list[EventIndex] = []  # in which the inference_mode contexts now open began
    patch(undo, inference_mode, "__enter__", _inference_enter, recorder, regions)
    patch(undo, inference_mode, "__exit__", _inference_exit, recorder, regions)


def _inference_enter(original: Any, recorder: Recorder, regions: list[EventIndex]) -> Any:
    def __enter__(self: Any) -> Any:
        regions.append(recorder.tape.region)
        if getattr(self, "mode", True):
            recorder.switch_off("inference_mode", recorder.walk(sys._getframe(1)))
        return original(self)

    return __enter__


def _inference_exit(original: Any, recorder: Recorder, regions: list[EventIndex]) -> Any:
    def __exit__(self: Any, *exception: Any) -> Any:
        recorder.tape.region = regions.pop() if regions else GRAD_ON
        return original(self, *exception)

    return __exit__
