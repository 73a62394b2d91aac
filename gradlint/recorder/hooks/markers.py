"""Record the values that user code marks by `gradlint.constant` and `gradlint.differentiable`."""

from __future__ import annotations

import sys
import threading
from typing import Any

from gradlint.markers import observe
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.restore.global_state import without_torch_function
from gradlint.system.undo import Undo
from gradlint.traces.events import Marked


def note_marks(undo: Undo, recorder: Recorder) -> None:
    """Make an event of each marked value until it is undone."""

    def note(value: Any, constant: bool) -> None:
        if recorder.paused or threading.get_ident() != recorder.thread:
            return
        chain = recorder.walk(sys._getframe(1))
        if chain.apply is not None or chain.run >= 0:
            return  # a reentrant checkpoint runs its function again, with gradient
        with without_torch_function():
            values = tuple(recorder.tensors.read(tensor) for tensor in tensors_in(value))
        recorder.tape.event(Marked, chain.site, values, constant)

    observe(undo, note)
