"""Keep what each ``.grad`` is the sum of: backward passes, and the round in which a step applied each of them.

torch has a hook for the accumulation of a gradient and none for its clearing, so ``.grad`` is looked at before each
backward and step. A gradient counts as cleared when it is gone, zero, or another tensor than before.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import NamedTuple

import torch
from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.autograd import nonzero
from gradlint.recorder.ledger.training_log import OpenBackward, TrainingLog
from gradlint.restore.global_state import without_torch_function
from gradlint.traces.ids import NO_EVENT, NO_OP, NO_SITE, BackwardIndex, EventIndex, OpIndex, ParameterKey, SiteId
from gradlint.traces.training import Clear, Content

_UNAPPLIED = -1
_ZERO = -2
"""Instead of a round: the gradient is exactly zero, or was zeroed unseen (``p.grad.data.zero_()``)."""


class _Seen(NamedTuple):
    """A gradient as the latest accumulation or clip left it."""

    grad: weakref.ref[Tensor]
    version: int


class AccumulatedGradients:
    """The backward passes that the gradient of each parameter is the sum of.

    A round ends whenever gradients are applied: by a step, or by each evaluation of its closure.
    """

    def __init__(self, recorder: Recorder, training: TrainingLog, parameters: Mapping[ParameterKey, Tensor]) -> None:
        self.round = 0
        self._recorder = recorder
        self._training = training
        self._parameters = parameters
        self._passes: dict[ParameterKey, dict[BackwardIndex, int]] = {}
        """Parameter → number of a backward pass → round in which a step applied its gradient."""
        self._seen: dict[ParameterKey, _Seen] = {}
        self._clipped_until: dict[ParameterKey, OpIndex] = {}
        """Parameter → the op after the latest clip of its gradient, where nothing else had written to it."""

    def keys(self) -> Set[ParameterKey]:
        """Return the parameters that gradient was ever accumulated into."""
        return self._passes.keys()

    def passes(self, key: ParameterKey) -> Set[BackwardIndex]:
        """Return the backward passes that a gradient is the sum of."""
        return self._passes.get(key, {}).keys()

    def unapplied(self, key: ParameterKey) -> list[BackwardIndex]:
        """Return the backward passes in a gradient that no step has applied."""
        return [number for number, applied in self._passes.get(key, {}).items() if applied == _UNAPPLIED]

    def unwritten(self) -> frozenset[ParameterKey]:
        """Return the parameters whose gradient is as a backward pass left it."""
        with without_torch_function():
            held = [(key, passes) for key, passes in self._passes.items() if passes and self._is_untouched(key)]
            return frozenset(key for key, passes in held if not self._is_overwritten(key, passes))

    def gradients(self) -> Iterator[tuple[ParameterKey, Tensor]]:
        """Yield (identity of the parameter, gradient) of those that have one."""
        for key, p in self._parameters.items():
            grad = p.grad
            if grad is not None:
                yield key, grad

    # -- what adds to it and takes from it ----------------------------------------------------------------------

    def add(self, tensor: Tensor, backward: OpenBackward) -> None:
        """Note that a backward pass has accumulated gradient into a parameter."""
        key = ParameterKey(id(tensor))
        passes = self._passes.setdefault(key, {})
        if backward.number not in passes:
            backward.deposits.setdefault(key, tuple(passes))
        passes[backward.number] = _UNAPPLIED
        grad = tensor.grad
        if grad is None:
            self._passes[key] = {}
        else:
            self._seen[key] = _Seen(weakref.ref(grad), grad._version)

    def look(self, event: EventIndex = NO_EVENT, site: SiteId = NO_SITE) -> None:
        """Find the gradients that were cleared or replaced.

        `event` and `site` are those of a ``zero_grad``.
        """
        discarded: dict[ParameterKey, tuple[BackwardIndex, ...]] = {}
        with without_torch_function(), torch.no_grad():
            for key, passes in self._passes.items():
                if not passes or self._is_still_there(key):
                    continue
                if self._is_untouched(key) and not self._is_overwritten(key, passes):
                    self._passes[key] = dict.fromkeys(passes, _ZERO)
                    continue
                if lost := tuple(self.unapplied(key)):
                    discarded[key] = lost
                self._passes[key] = {}
        if discarded:
            self._training.clears.append(Clear(event, site, discarded))

    def clipped(self, key: ParameterKey) -> None:
        """Count what a clip wrote to a gradient as no write of user code."""
        if (seen := self._seen.get(key)) is not None:
            with without_torch_function():
                self._seen[key] = seen._replace(version=getattr(self._parameters[key].grad, "_version", -1))
        self._clipped_until[key] = OpIndex(len(self._recorder.tape.ops))

    def apply(
        self, parameters: Mapping[ParameterKey, tuple[Tensor, float | None]], content: dict[ParameterKey, Content]
    ) -> None:
        """Count some gradients as applied now.

        Args:
            parameters: identity → (parameter of the step, its learning rate).
            content: what the step has applied so far; it gets what it applies now.
        """
        with without_torch_function(), torch.no_grad():
            for key, (parameter, lr) in parameters.items():
                content[key] = self._content(key, parameter, lr, content.get(key))
                passes = self._passes.get(key, {})
                passes.update(dict.fromkeys(self.unapplied(key), self.round))
        self.round += 1

    def take_back(self, keys: Iterable[ParameterKey], begun: int) -> None:
        """Count gradients as not applied that were applied since a round."""
        for key in keys:
            passes = self._passes.get(key, {})
            passes.update((number, _UNAPPLIED) for number, applied in passes.items() if applied >= begun)

    def release(self, *gradients: Tensor) -> None:
        """Keep no weak reference to some gradients, which may be exchanged then."""
        for key in [key for key, seen in self._seen.items() if any(seen.grad() is g for g in gradients)]:
            del self._seen[key]

    def forget(self) -> None:
        """Forget every gradient."""
        self._passes.clear()
        self._seen.clear()

    # -- one gradient -------------------------------------------------------------------------------------------

    def _content(self, key: ParameterKey, parameter: Tensor, lr: float | None, before: Content | None) -> Content:
        """Return what a step applies of a gradient, after what its earlier evaluations applied."""
        passes = self._passes.get(key, {})
        is_fresh = _UNAPPLIED in passes.values()
        stale = [number for number, applied in passes.items() if applied >= 0] if is_fresh else []
        summed = [number for number, applied in passes.items() if applied != _ZERO] or list(passes)
        has_grad = parameter.grad is not None
        flows = any(applied != _ZERO for applied in passes.values()) or (not passes and _has_gradient(parameter))
        return Content(
            backwards=tuple(dict.fromkeys((*(before.backwards if before else ()), *summed))),
            stale=tuple(dict.fromkeys((*(before.stale if before else ()), *stale))),
            grad=has_grad,
            trainable=parameter.requires_grad,
            lr=lr,
            moved=None,
            nonzero=flows,
            at_zero=not flows and has_grad and not nonzero(parameter),
        )

    def _is_still_there(self, key: ParameterKey) -> bool:
        """Return True if ``.grad`` is still the accumulated tensor, and not zero."""
        grad, seen = self._parameters[key].grad, self._seen.get(key)
        return grad is not None and seen is not None and seen.grad() is grad and nonzero(grad)

    def _is_untouched(self, key: ParameterKey) -> bool:
        """Return True if torch counts no write to a gradient since its accumulation."""
        grad, seen = self._parameters[key].grad, self._seen.get(key)
        return grad is not None and seen is not None and seen.grad() is grad and grad._version == seen.version

    def _is_overwritten(self, key: ParameterKey, passes: Iterable[BackwardIndex]) -> bool:
        """Return True if user code wrote to the memory of a gradient since it was accumulated.

        A write through ``.data`` is one that torch does not count.
        """
        grad = self._parameters[key].grad
        tensors = self._recorder.tensors
        entry = tensors.entry_of(grad) if grad is not None else None
        write = tensors.writes.get(entry.storage) if entry is not None else None
        since = max(self._training.backwards[max(passes)].op, self._clipped_until.get(key, NO_OP))
        return write is not None and write[0] >= since


def _has_gradient(tensor: Tensor) -> bool:
    return tensor.grad is not None and nonzero(tensor.grad)
