"""Follow gradients from the backward passes that accumulate them to the steps that apply them.

Hooks report to the ledger, and its parts write the training log. Each part has one question:

    parameter_hooks   which tensors gradient is accumulated into
    backward_passes   which backward pass a gradient comes from, and whether it is zero or not finite
    accumulated       which backward passes ``.grad`` is the sum of, and which of them a step has applied
    gradient_reads    which gradients user code reads
    optimizer_steps   what a step applies and moves
    loss_scaling      which gradients a gradient scaler has multiplied
    other_threads     what other threads train
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import FrameType
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.facts.kept_graphs import mark
from gradlint.recorder.ledger.accumulated import AccumulatedGradients
from gradlint.recorder.ledger.backward_passes import BackwardPasses
from gradlint.recorder.ledger.enough import EnoughRecorded
from gradlint.recorder.ledger.gradient_masks import GradientMasks
from gradlint.recorder.ledger.gradient_reads import GradientReads
from gradlint.recorder.ledger.loss_scaling import LossScaling
from gradlint.recorder.ledger.optimizer_steps import OptimizerSteps
from gradlint.recorder.ledger.other_threads import OtherThreads
from gradlint.recorder.ledger.parameter_hooks import ParameterHooks
from gradlint.recorder.ledger.training_log import TrainingLog
from gradlint.traces.events import ZeroGradCalled
from gradlint.traces.ids import EventIndex, OpIndex, ParameterKey, SiteId


class Ledger:
    """The parts that follow gradients, from the first `follow` to `leave`."""

    def __init__(self, recorder: Recorder) -> None:
        self.training = TrainingLog()
        self.following = False
        self.stopping: Callable[[], bool] = lambda: False
        """A function called before more user code runs; True ends the training."""
        self.before_backward: Callable[[Sequence[Tensor]], None] | None = None
        """A function called before each backward pass, with the tensors it starts from."""
        self.in_hook = False
        """True while torch iterates over its step hooks, when none of them may be removed."""
        self._recorder = recorder
        parameters: dict[ParameterKey, Tensor] = {}
        masks = GradientMasks()
        self.other_threads = OtherThreads()
        self.scaling = LossScaling(recorder, self.training)
        self.accumulated = AccumulatedGradients(recorder, self.training, parameters)
        self.reads = GradientReads(recorder, self.training, parameters, self.accumulated, masks)
        self.passes = BackwardPasses(
            recorder, self.training, parameters, self.accumulated, masks, self.scaling, self.other_threads
        )
        self.steps = OptimizerSteps(recorder, self.training, self.accumulated, masks, self.passes, self.follow)
        self._hooks = ParameterHooks(parameters, self.passes)

    def follow(self, parameters: Iterable[Tensor]) -> None:
        """Follow every gradient that is accumulated into some leaf tensors."""
        if not self.following:
            self.following = True
            tape = self._recorder.tape
            self.steps.marks.append(mark(self._recorder))
            tape.nodes = []
            self.training.start = OpIndex(len(tape.ops))
            self.training.first_event = EventIndex(len(tape.events))
        self._hooks.add(parameters)

    def leave(self) -> None:
        """Remove all hooks, and follow nothing more."""
        self.steps.drop_all()
        self.following = False
        self._recorder.tape.nodes = None
        self._hooks.remove()
        self.accumulated.forget()

    @contextlib.contextmanager
    def backward(self, tensors: Any, retains: bool, site: SiteId) -> Iterator[None]:
        """Attribute the gradient accumulated inside to a backward pass from `tensors`."""
        self.stop_if_enough()
        if not self.following:  # the recording has ended with it
            yield
            return
        self.steps.drop_raised()
        starts = tensors_in(tensors)
        if self.before_backward is not None:
            self.before_backward(starts)
        self.accumulated.look()
        self.training.gradient_hooks |= self._hooks.precede()
        with self.passes.attributing(starts, retains, site):
            yield

    def before_step(self, optimizer: Optimizer, frame: FrameType | None, args: Any, kwargs: Any) -> Any:
        """Begin an optimizer's step; return the arguments to call it with instead, or None."""
        self.in_hook = True
        try:
            self.stop_if_enough()
        finally:
            self.in_hook = False
        if not self.following:  # the recording has ended with it
            return None
        self.steps.drop_raised()
        return self.steps.before(optimizer, frame, args, kwargs)

    def cleared(self, keys: Iterable[ParameterKey], site: SiteId) -> None:
        """Note a ``zero_grad`` over some parameters, after it has run."""
        event = self._recorder.tape.event(ZeroGradCalled, site, tuple(keys))
        self.accumulated.look(event.number, site)

    def stop_if_enough(self) -> None:
        """End the user's training if enough of it is recorded.

        Raises:
            EnoughRecorded: enough is recorded.
        """
        if self.stopping():
            raise EnoughRecorded
