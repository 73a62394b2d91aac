"""Watch the threads that are started during a recording."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable
from typing import Any

from torch.overrides import TorchFunctionMode

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.hooks.patching import patch
from gradlint.system.undo import Turn, Undo
from gradlint.traces.ids import (
    SiteId,
)


def install_hooks(undo: Undo, recorder: Recorder) -> None:
    """Set the hooks until `undo` removes them."""
    patch(undo, threading.Thread, "start", _thread_start, recorder)


class _ThreadWatch(TorchFunctionMode):
    """Notes that a thread computes with tensors of the recording once training has begun."""

    def __init__(self, recorder: Recorder, site: SiteId) -> None:
        super().__init__()
        self._recorder: Recorder | None = recorder
        self._site = site

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call, and note the first that counts."""
        recorder = self._recorder
        if recorder is not None and recorder.forward_begun and recorder.records(func):
            if any(recorder.tensors.entry_of(t) is not None for t in tensors_in((args, kwargs))):
                self._recorder = None
                recorder.tape.note_unseen("another thread: its operations are not seen", self._site)
        return func(*args, **(kwargs or {}))


def _thread_start(original: Any, recorder: Recorder) -> Any:
    def start(self: threading.Thread) -> None:
        Turn.note_started(self)
        # a daemon thread only watches (a progress bar); a thread that computes is joined, so it is no daemon
        if not recorder.active or self.daemon or "run" in vars(self):
            return original(self)  # type: ignore[no-any-return]
        site, run = recorder.walk(sys._getframe(1)).site, self.run

        def watched() -> None:
            del self.run
            with _ThreadWatch(recorder, site):
                run()

        self.run = watched  # type: ignore[method-assign]
        try:
            return original(self)  # type: ignore[no-any-return]
        except BaseException:
            vars(self).pop("run", None)
            raise

    return start
