"""Runs a recorded setup once more: unrecorded, under a fixed seed, with or without putting back what that changes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType

from torch import Tensor, nn
from torch.optim import Optimizer

from gradlint.errors import TargetError
from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.user_code import SEED, seed
from gradlint.restore.preserved import Preserved
from gradlint.system.undo import Undo
from gradlint.traces.ids import ParameterKey, SiteId
from gradlint.traces.trace import Trace


class Replay:
    """Forward and loss of a setup, or one round of its step, to be run again while its recording is open.

    Attributes:
        roots: name → model.
        optimizers: name → optimizer.
        tensors: key of a parameter → its tensor.
    """

    def __init__(
        self,
        recorder: Recorder,
        undo: Undo,
        roots: Mapping[str, nn.Module],
        optimizers: Mapping[str, Optimizer],
        tensors: Mapping[ParameterKey, Tensor],
        run: Callable[[], list[Tensor]],
        preserved: Callable[[], Preserved] | None = None,
    ) -> None:
        """Prepare to run a setup again.

        Args:
            recorder: the recorder of the setup.
            undo: undoes its recording.
            roots: name → model.
            optimizers: name → optimizer.
            tensors: key of a parameter → its tensor.
            run: runs it once; returns the roots with their history.
            preserved: returns what puts back all that a run changes; by default, models and optimizers.
        """
        self.roots = roots
        self.optimizers = optimizers
        self.tensors = tensors
        self._recorder = recorder
        self.undo = undo
        self._run = run
        self._preserved = preserved
        self._sites = len(recorder.tape.sites.rows)

    def __call__(self, watch: AbstractContextManager[object] | None = None, number: int = SEED) -> list[Tensor]:
        """Return the roots' values, and restore everything that the run changes.

        Args:
            watch: a context to run in.
            number: the seed to run under.
        """
        preserving = Preserved(self.roots) if self._preserved is None else self._preserved()
        with self.undo.part() as part, self._recorder.announcing_writes_to(preserving):
            part.enter(preserving)
            return [t.detach().clone() for t in self.live(number, watch)]

    @contextlib.contextmanager
    def preserving(self) -> Iterator[Preserved]:
        """Put back the changes of several runs and between them."""
        preserving = Preserved(self.roots, self.optimizers.values()) if self._preserved is None else self._preserved()
        with self.undo.part() as part:
            yield part.enter(preserving)

    def live(self, number: int = SEED, watch: AbstractContextManager[object] | None = None) -> list[Tensor]:
        """Return the roots with their history; what the run changes stays changed.

        Args:
            number: the seed to run under.
            watch: a context to run in, for example a function mode that looks at every call.
        """
        with self._recorder.pausing(), self._recorder, watch or contextlib.nullcontext():
            seed(number)
            return self._run()

    def site(self, frame: FrameType) -> SiteId:
        """Return the user's call chain above a frame of a run, as far as the recording knows it."""
        return self._recorder.tape.sites.known(self._recorder.walk(frame).site, self._sites)


@dataclass
class Recorded:
    """A recording that is still open: its trace, and the means to run its setup again."""

    trace: Trace
    replay: Replay | None
    """None where forward and loss cannot be run again."""
    failure: TargetError | None = None
    """The error of a later call of the setup's step; the calls before it are in the trace."""
    unrestored: list[str] = field(default_factory=list)
    """Names of objects that could not be put back as they were; known once the recording is closed."""
