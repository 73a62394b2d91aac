"""Follow through recorded steps what a model runs and does not register: layers in lists, tensors, layers made anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import CodeType

from torch import Tensor

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.facts.assemble import Tables
from gradlint.recorder.facts.forward_start import ForwardStart
from gradlint.recorder.facts.unregistered import judge_unregistered_tensors
from gradlint.recorder.hooks.log import HookLog
from gradlint.recorder.ledger.ledger import Ledger
from gradlint.traces.ids import NO_CALL, ModuleIndex, ParameterKey
from gradlint.traces.trace import UnregisteredTensor


class OutsideTree:
    """The layers and tensors outside the module tree that the backward passes of recorded steps may reach."""

    def __init__(self, recorder: Recorder, log: HookLog, ledger: Ledger) -> None:
        self._recorder = recorder
        self._log = log
        self._ledger = ledger
        self._calls = 0
        """Number of module calls seen so far."""
        self._seen: set[ModuleIndex] = set()
        """The modules that ran inside of another."""
        self._tensors: dict[str, UnregisteredTensor] = {}
        """Name → the tensor there, as the backward passes so far showed it."""

    def before_backward(self, roots: Sequence[Tensor], begin: ForwardStart) -> None:
        """Follow parameters of the layers that ran, and judge unregistered tensors by `roots`."""
        new = [m for m in self._ran() if m not in self._seen]
        self._seen.update(new)
        modules = [self._log.modules[number] for number in new]
        # a module of the user's may define parameters() itself
        self._ledger.follow(p for m in modules for p in m._parameters.values() if p is not None)
        candidates = [c for c in begin.unregistered_tensors if not self._is_reached(c[0].fqn)]
        if candidates:
            with self._recorder.pausing():
                judged = judge_unregistered_tensors(
                    self._recorder, self._log, candidates, roots, begin.tensors, begin.start
                )
                self._tensors.update((tensor.place.fqn, tensor) for tensor in judged)

    def tensors(self, others: Sequence[UnregisteredTensor] = ()) -> tuple[UnregisteredTensor, ...]:
        """Return the unregistered tensors, with what the forward and the loss showed of them."""
        known = {tensor.place.fqn: tensor for tensor in others}
        for fqn, tensor in self._tensors.items():
            before = known.get(fqn, tensor)
            known[fqn] = replace(
                tensor,
                reached=tensor.reached or before.reached,
                differentiated=tensor.differentiated or before.differentiated,
            )
        return tuple(known.values())

    def _ran(self) -> Iterator[ModuleIndex]:
        calls = self._log.calls
        for call in calls[self._calls :]:
            if call.parent != NO_CALL:
                yield call.module
        self._calls = len(calls)

    def _is_reached(self, fqn: str) -> bool:
        tensor = self._tensors.get(fqn)
        return tensor is not None and tensor.reached


def recreated_in_steps(recorder: Recorder, log: HookLog, ledger: Ledger, tables: Tables) -> frozenset[ParameterKey]:
    """Return the parameters that one line of the forward creates in several rounds of steps."""
    rows = recorder.tape.sites.rows
    backwards = [b.event for b in ledger.training.backwards]
    inner = {call.module for call in log.calls if call.parent != NO_CALL}
    held = {ParameterKey(id(p)) for o in log.optimizers for g in o.param_groups for p in g["params"]}
    rounds: dict[tuple[CodeType, int], dict[int, list[ParameterKey]]] = {}
    for parameter in tables.parameters:
        first = parameter.created_by
        if first is None or not first.is_new or first.site < 0:
            continue
        if parameter.module in inner and parameter.key not in held:
            number = sum(event < first.number for event in backwards)
            rounds.setdefault(rows[first.site][:2], {}).setdefault(number, []).append(parameter.key)
    several = (created for created in rounds.values() if len(created) > 1)
    return frozenset(key for created in several for keys in created.values() for key in keys)
