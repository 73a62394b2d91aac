"""Attribute gradients to the backward passes that accumulate them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.autograd import Passage, nonzero, watching
from gradlint.recorder.facts.finiteness import FiniteWatch
from gradlint.recorder.ledger.accumulated import AccumulatedGradients
from gradlint.recorder.ledger.gradient_masks import GradientMasks
from gradlint.recorder.ledger.loss_scaling import LossScaling
from gradlint.recorder.ledger.other_threads import OtherThreads
from gradlint.recorder.ledger.training_log import OpenBackward, TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.traces.events import BackwardCalled
from gradlint.traces.ids import NO_OP, NO_SITE, BackwardIndex, ModuleIndex, ParameterKey, SiteId, ValueId
from gradlint.traces.training import Spoiling


class BackwardPasses:
    """The backward pass that is open, and what arrives at parameters through it."""

    def __init__(
        self,
        recorder: Recorder,
        training: TrainingLog,
        parameters: Mapping[ParameterKey, Tensor],
        accumulated: AccumulatedGradients,
        masks: GradientMasks,
        scaling: LossScaling,
        other_threads: OtherThreads,
    ) -> None:
        self.climbed: tuple[int, frozenset[ParameterKey]] = (0, frozenset())
        """Round in which the running step began, and what it moved along its gradient before the closure."""
        self._recorder = recorder
        self._training = training
        self._parameters = parameters
        self._accumulated = accumulated
        self._masks = masks
        self._scaling = scaling
        self._other_threads = other_threads
        self._open: OpenBackward | None = None
        self._arrived: dict[ParameterKey, bool] = {}
        """Parameter whose gradient is about to be accumulated → whether there is one: autograd may pass on None."""
        self._finite: FiniteWatch | None = None
        """The look at the gradients of the open pass."""
        self._passage = Passage()
        """The ways of the open pass."""
        self._passages: dict[tuple[object, ...], Passage] = {}
        """Kind of backward pass → the ways of the first of its kind."""

    @contextlib.contextmanager
    def attributing(self, starts: Sequence[Tensor], retains: bool, site: SiteId) -> Iterator[None]:
        """Attribute the gradient accumulated inside to a backward pass from `starts`."""
        recorder = self._recorder
        roots = tuple(recorder.tensors.read(t) for t in starts)
        outer, self._open = self._open, self._begin(roots, retains, site)
        try:
            with recorder.pausing(), self._passing(self._open, starts), self._watching_finiteness(self._open, starts):
                yield
        except BaseException:
            self._drop_refused(self._open, starts)
            raise
        finally:
            self._open = outer

    def recounted(self, norms: frozenset[ModuleIndex]) -> None:
        """Note the batch norms that counted a batch during the pass that is open."""
        if self._open is not None:
            self._open.recounted |= norms

    # -- hooks of a parameter -----------------------------------------------------------------------------------

    def arrive_first(self, key: ParameterKey, gradient: Tensor | None) -> None:
        """Note a gradient as it is before the hooks of user code."""
        if gradient is not None:
            with without_torch_function(), torch.no_grad():
                self._masks.on_arrive(key, gradient, self._parameters[key].grad)

    def arrive(self, key: ParameterKey, gradient: Tensor | None) -> None:
        """Note the gradient that torch is about to accumulate into a parameter."""
        self._arrived[key] = gradient is not None
        if gradient is not None and self._finite is not None:
            with without_torch_function():
                self._finite.arrive(key, gradient)
        if gradient is not None and key in self._passage.suspects:
            with without_torch_function():
                if nonzero(gradient):
                    self._passage.nonzero.add(key)

    def accumulate(self, tensor: Tensor) -> None:
        """Note that torch has accumulated gradient into a parameter."""
        key = ParameterKey(id(tensor))
        if key not in self._parameters or not self._arrived.pop(key, True):
            return
        foreign = self._other_threads.parameters
        if tensor.device.type == "cpu" and threading.get_ident() != self._recorder.thread:
            foreign.add(key)  # backward on other devices runs in threads of torch
        if key not in foreign:
            backward = self._open or self._unseen(key)
            self._masks.on_accumulate(key)
            self._accumulated.add(tensor, backward)

    def _unseen(self, key: ParameterKey) -> OpenBackward:
        """Return the pass of a gradient that arrives outside of all known ones.

        It is the latest such pass, if the gradient may belong to it.
        """
        last = self._training.backwards[-1] if self._training.backwards else None
        if last is not None and not last.roots and last.op == len(self._recorder.tape.ops) and key not in last.deposits:
            return last
        return self._begin((), False, NO_SITE)

    # -- begin and end ------------------------------------------------------------------------------------------

    def _begin(self, roots: tuple[ValueId, ...], retains: bool, site: SiteId) -> OpenBackward:
        training = self._training
        number = BackwardIndex(len(training.backwards))
        event = self._recorder.tape.event(BackwardCalled, site, number)
        backward = OpenBackward(number, event.number, event.op, site, roots, retains, self._trainable())
        backward.scaled = self._scaling.has_scaled(roots)
        if self.climbed[1]:
            # the step that runs this pass has not applied the gradient before as descent
            (begun, backward.climbed), self.climbed = self.climbed, (0, frozenset())
            self._accumulated.take_back(backward.climbed, begun)
        training.backwards.append(backward)
        return backward

    def _trainable(self) -> frozenset[ParameterKey]:
        """Return the parameters that require grad now, as the last backward pass's set if equal."""
        with without_torch_function():
            now = frozenset(key for key, p in self._parameters.items() if p.requires_grad)
        last = self._training.backwards[-1].trainable if self._training.backwards else now
        return last if now == last else now

    def _drop_refused(self, backward: OpenBackward, tensors: Sequence[Tensor]) -> None:
        """Forget a backward pass that torch refused: no verdict follows from it.

        That is one from a vector, for example. One from tensors that do not require grad stays, as its cause is known.
        """
        if not backward.deposits and backward is self._training.backwards[-1]:
            if any(t.requires_grad for t in tensors):
                self._training.backwards.pop()

    # -- zero, NaN and infinite gradients -----------------------------------------------------------------------

    @contextlib.contextmanager
    def _passing(self, backward: OpenBackward, roots: Sequence[Tensor]) -> Iterator[None]:
        """Find the gradient of a backward pass that is zero wherever it comes from.

        The graph is walked once for each kind of pass: those of one line, after the same operations.
        """
        training = self._training
        before = training.backwards[-2].op if len(training.backwards) > 1 else training.start
        nodes = (root.grad_fn.name() if root.grad_fn is not None else "" for root in roots)
        names = tuple(op.name for op in self._recorder.tape.ops[before : backward.op])
        kind = (backward.site, hash(names), *nodes)
        outer, known = self._passage, self._passages.get(kind)
        try:
            if known is not None:
                self._passage = Passage(known.suspects, zero=known.zero)
                yield
            else:
                with watching(roots) as self._passage:
                    yield
                self._passages[kind] = self._passage
                training.dropped |= self._passage.dropped
            zero = self._passage.zero - self._passage.nonzero
            backward.zero = frozenset(backward.deposits.keys() & zero)
        finally:
            self._passage = outer

    @contextlib.contextmanager
    def _watching_finiteness(self, backward: OpenBackward, roots: Sequence[Tensor]) -> Iterator[None]:
        """Find gradients of a backward pass that are NaN or infinite, and the calls behind them."""
        outer, self._finite = self._finite, FiniteWatch(roots)
        try:
            with self._finite as watch:
                yield
            backward.spoilt = {key: self._spoiling(node, backward.site) for key, node in watch.spoilt().items()}
        finally:
            self._finite = outer

    def _spoiling(self, node: Any, site: SiteId) -> Spoiling:
        tape = self._recorder.tape
        number = tape.op_of_node(node) if node is not None else NO_OP
        if number == NO_OP:
            return Spoiling("", site)
        op, run = tape.ops[number], tape.run_of.get(number, -1)
        if run >= 0:
            return Spoiling(f"{tape.runs[run].cls.__name__}.apply", tape.runs[run].site)
        return Spoiling(op.name, op.site)
