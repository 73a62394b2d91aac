"""Follow which gradients are multiplied by the scale of a gradient scaler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.traces.ids import BackwardIndex, ValueId


class LossScaling:
    """The losses that a gradient scaler multiplied, and the gradients that it has not divided since."""

    def __init__(self, recorder: Recorder, training: TrainingLog) -> None:
        self._recorder = recorder
        self._training = training
        self._losses: set[ValueId] = set()
        """Values that a scaler returned."""
        self._unscaled: set[BackwardIndex] = set()
        """The backward passes whose gradient is not, or no longer, multiplied."""

    def scaled(self, outputs: Any) -> None:
        """Note the outputs of a scaler."""
        self._losses.update(self._recorder.tensors.read(t) for t in tensors_in(outputs))

    def unscaled(self, passes: Iterable[BackwardIndex]) -> None:
        """Note that a scaler divides the gradients of some backward passes."""
        self._unscaled.update(passes)

    def all_unscaled(self) -> None:
        """Note that a scaler steps: it has divided every gradient, or does so now."""
        self._unscaled.update(backward.number for backward in self._training.backwards)

    def has_scaled(self, roots: Iterable[ValueId]) -> bool:
        """Return True if a backward pass from some values starts from a scaled loss."""
        return not self._losses.isdisjoint(roots)

    def is_scaled(self, number: BackwardIndex) -> bool:
        """Return True if the gradient of a backward pass is multiplied now."""
        return self._training.backwards[number].scaled and number not in self._unscaled
