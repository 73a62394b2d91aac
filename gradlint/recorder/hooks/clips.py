"""Follow torch's clip functions: which gradients they clip, and at what time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from types import CodeType, FrameType
from typing import NamedTuple

from torch import Tensor

from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.hooks.optimizers import is_exhausted
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.traces.ids import EventIndex, ParameterKey, SiteId
from gradlint.traces.training import Clip

_CLIP = os.path.join("nn", "utils", "clip_grad.py")


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


class Clips:
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
        scaled_only = self._ledger.accumulated.unwritten() if limit != 0 else frozenset()
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
        entries = ((key, tensors.entry_of(grad)) for key, grad in ledger.accumulated.gradients())
        keys = [key for key, entry in entries if entry is not None and entry.value in touched]
        ledger.training.clips.append(self._effect(clip, keys))

    def gradient_read(self, tensor: Tensor) -> None:
        """Report a read of a gradient to the ledger, unless a clip function makes it."""
        if self._running is None:
            self._ledger.reads.read(tensor)

    def _effect(self, clip: _Clip, keys: Iterable[ParameterKey]) -> Clip:
        """Return what a clip did to the gradients of some parameters."""
        accumulated, scaling = self._ledger.accumulated, self._ledger.scaling
        fresh: list[ParameterKey] = []
        applied: list[ParameterKey] = []
        scaled: list[ParameterKey] = []
        for key in keys:
            passes = accumulated.passes(key)
            if not passes:
                continue
            (fresh if accumulated.unapplied(key) else applied).append(key)
            if key in clip.scaled_only:
                accumulated.clipped(key)
            if any(map(scaling.is_scaled, passes)):
                scaled.append(key)
        return Clip(clip.event, clip.site, clip.exhausted, clip.measures, tuple(fresh), tuple(applied), tuple(scaled))
