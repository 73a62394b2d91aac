"""Runs a recorded set-up once more: unrecorded, under a fixed seed, with or without putting back what that changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import FrameType

from torch import Tensor, nn
from torch.optim import Optimizer

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.user_code import SEED, seed
from gradlint.restore.preserved import Preserved
from gradlint.traces.ids import SiteId


class Again:
    """Forward and loss of a set-up, to be run again while its recording is open."""

    def __init__(
        self,
        recorder: Recorder,
        roots: dict[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        run: Callable[[], list[Tensor]],
    ) -> None:
        self._recorder = recorder
        self.roots = roots
        self.optimizers = optimizers
        self._run = run

    def __call__(self) -> list[Tensor]:
        """The roots' values; all that the run changes is put back."""
        with Preserved(self.roots) as preserved, self._recorder.announcing_writes_to(preserved):
            return [t.detach().clone() for t in self.live()]

    def live(self, number: int = SEED, watch: AbstractContextManager[object] | None = None) -> list[Tensor]:
        """The roots with their history; what the run changes stays changed.

        Args:
            number: the seed to run under.
            watch: a context to run in, for example a function mode that looks at every call.
        """
        with self._recorder.pausing(), self._recorder, watch or contextlib.nullcontext():
            seed(number)
            return self._run()

    def site(self, frame: FrameType) -> SiteId:
        """The user's call chain above a frame of such a run."""
        return self._recorder.walk(frame).site
