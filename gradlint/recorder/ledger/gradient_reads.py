"""Note which gradients user code reads, from which it may compute something."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.ledger.accumulated import AccumulatedGradients
from gradlint.recorder.ledger.gradient_masks import GradientMasks
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.traces.ids import ParameterKey


class GradientReads:
    """The reads of ``.grad`` by user code, as opposed to those by torch."""

    def __init__(
        self,
        recorder: Recorder,
        training: TrainingLog,
        parameters: Mapping[ParameterKey, Tensor],
        accumulated: AccumulatedGradients,
        masks: GradientMasks,
    ) -> None:
        self.by_torch = 0
        """Above zero while torch reads gradients to clear or to unscale them."""
        self._recorder = recorder
        self._training = training
        self._parameters = parameters
        self._accumulated = accumulated
        self._masks = masks

    def read(self, tensor: Tensor) -> None:
        """Note a read of the gradient of a tensor."""
        if self.by_torch:
            return
        key, accumulated = ParameterKey(id(tensor)), self._accumulated
        if accumulated.passes(key):
            self._note_value(key)
        for read in (key,) if key in self._parameters else accumulated.keys():
            for number in accumulated.unapplied(read):
                self._training.backwards[number].read = True

    def _note_value(self, key: ParameterKey) -> None:
        with without_torch_function():
            grad = self._parameters[key].grad
        if grad is not None and grad.grad_fn is None:
            self._training.gradients[self._recorder.tensors.read(grad)] = key
            with without_torch_function(), torch.no_grad():
                self._masks.on_read(key, grad)
