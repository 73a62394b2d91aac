"""What a training step really costs: a plain forward, backward and optimizer step, measured without gradlint."""

from __future__ import annotations

import gc
import importlib.util
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from gradlint.flow.cost import Cost


@dataclass(frozen=True)
class Truth:
    """The numbers of one training setup."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    forward_flops: int
    backward_flops: int

    @classmethod
    def said(cls, cost: Cost) -> Truth:
        """Return the numbers that gradlint gives."""
        backward = cost.input_gradient_flops + cost.weight_gradient_flops
        return cls(cost.parameters, cost.gradients, cost.optimizer, cost.activations, cost.forward_flops, backward)


class _Holder:
    """A tensor that the graph keeps: it is gone when the graph is."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def measure_builder(path: Path, name: str) -> Truth:
    """Take one step of what a function in a file builds."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return measure(getattr(module, name)())


def measure(setup: Mapping[str, Any]) -> Truth:
    """Take one step of a training setup with a loss."""
    model, loss, optimizer = setup["model"], setup["loss"], setup["optimizer"]
    model.train()
    given = setup["inputs"]
    cells = [cell.cell_contents for cell in loss.__closure__ or ()]
    known = [*model.parameters(), *model.buffers(), *(given.values() if isinstance(given, dict) else given), *cells]
    outside = {t.untyped_storage().data_ptr() for t in known if isinstance(t, torch.Tensor)}
    kept: list[weakref.ref[_Holder]] = []

    def pack(tensor: torch.Tensor) -> _Holder:
        holder = _Holder(tensor.detach())
        kept.append(weakref.ref(holder))
        return holder

    forward, backward = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda holder: holder.tensor), forward:
        value = loss(model(**given) if isinstance(given, dict) else model(*given))
    gc.collect()
    held = [h.tensor.untyped_storage() for reference in kept if (h := reference()) is not None]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in held}
    with backward:
        value.backward()
    optimizer.step()
    parameters = list(model.parameters())
    return Truth(
        parameters=sum(p.nbytes for p in parameters),
        gradients=_size(p.grad for p in parameters),
        optimizer=_size(t for state in optimizer.state.values() for t in state.values()),
        activations=sum(size for pointer, size in sizes.items() if pointer not in outside),
        forward_flops=forward.get_total_flops(),
        backward_flops=backward.get_total_flops(),
    )


def _size(tensors: Iterable[Any]) -> int:
    """The bytes of the memory of some tensors, shared memory once."""
    storages = [t.untyped_storage() for t in tensors if isinstance(t, torch.Tensor)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())
