"""The state of models and optimizers when the forward (or, without one, the first step) began."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradlint.recorder.calls.mode import Recorder
from gradlint.recorder.calls.values import storage_id
from gradlint.recorder.facts.module_tree import places
from gradlint.recorder.facts.seen_buffers import SeenBuffers
from gradlint.recorder.facts.unregistered import find_unregistered_tensors
from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import OpIndex, ParameterKey


class ForwardStart:
    """State of models and optimizers at the start of the forward.

    Attributes:
        calls: number of module calls before.
        tensors: the parameters of the roots and optimizers, by identity.
        earlier: the value that each had, by identity.
        lazy: identities of those that had no shape yet.
        flags: whether each required grad.
        untouched: identities of those that only recorded calls can have written.
        allocated: identities of those among them that were made of memory to which nothing had been written.
        modes: the training flag of each module, by identity.
        buffers: the buffers as they were.
        unregistered_tensors: tensors in plain attributes of modules.
        start: number of ops before.
    """

    def __init__(
        self,
        recorder: Recorder,
        roots: Mapping[str, nn.Module],
        optimizers: Mapping[str, Any],
        calls: int,
        *,
        rebase: bool = True,
    ) -> None:
        """Read the state as it is now.

        Args:
            recorder: the recorder of the forward.
            roots: name → module.
            optimizers: name → optimizer.
            calls: number of module calls before.
            rebase: give each parameter a fresh value without a history; never in the middle of training.
        """
        in_optimizers = [p for o in optimizers.values() for g in o.param_groups for p in g["params"]]
        self.calls = calls
        inside = [p for root in roots.values() for p in nn.Module.parameters(root)]
        self.tensors = {ParameterKey(id(p)): p for p in (*inside, *in_optimizers)}
        if rebase:
            self.earlier = recorder.tensors.rebase(self.tensors.values())
        else:
            for p in self.tensors.values():
                recorder.tensors.watch(p)
            self.earlier = {key: recorder.tensors.read(p) for key, p in self.tensors.items()}
        self.lazy = {key for key, p in self.tensors.items() if is_lazy(p)}
        self.flags = {key: bool(p.requires_grad) for key, p in self.tensors.items()}
        self.untouched = {key for key, p in self.tensors.items() if _is_untouched(recorder, p)}
        made = recorder.tensors.allocated
        self.allocated = {key for key in self.untouched & made.keys() if made[key]() is self.tensors[key]}
        self.modes = {id(p.module): bool(p.module.training) for p in places(roots)}
        self.buffers = SeenBuffers(recorder)
        self.buffers.note_new(roots)
        self.unregistered_tensors = find_unregistered_tensors(roots, self.tensors, recorder)
        self.start = OpIndex(len(recorder.tape.ops))


def _is_untouched(recorder: Recorder, tensor: Tensor) -> bool:
    """Return True if only recorded calls can have written to a tensor.

    torch counts no write to it, its memory was not handed out, and no process group can have sent values.
    """
    if is_lazy(tensor) or tensor.is_inference() or tensor._version or not is_readable(tensor):
        return False
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return False
    return storage_id(tensor) not in recorder.tensors.exported
