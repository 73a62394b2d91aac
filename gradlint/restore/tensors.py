"""What a forward, a backward or a step can change about one tensor, and the bytes of one storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

__all__ = ["PLAIN_TYPES", "Memory", "StorageBytes", "TensorState", "inner_tensors", "overlaps", "storage_of"]

PLAIN_TYPES = (Tensor, Parameter)
"""The tensor types that nobody has taught to lie about their memory."""


Memory = tuple[torch.UntypedStorage, int] | None
"""A storage and its address, or None where there is no memory."""


class StorageBytes:
    """One storage and, once something is about to write to it, a copy of its bytes."""

    __slots__ = ("nbytes", "saved", "storage", "viewed")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.nbytes = storage.nbytes()
        self.saved: Tensor | None = None
        self.viewed: Tensor | None = None

    def _view(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)

    def save(self) -> None:
        if self.saved is None and self.storage.nbytes() == self.nbytes:
            self.viewed = self._view()
            self.saved = self.viewed.clone()

    def put_back(self) -> None:
        if self.storage.nbytes() != self.nbytes:
            if self.saved is None:
                raise RuntimeError("a storage was resized")
            self.storage.resize_(self.nbytes)
        if self.saved is not None and self.viewed is not None:
            view = self.viewed
            # What is equal is not written: the memory may be read-only (a mapped file).
            if not torch.equal(view, self.saved):
                view.copy_(self.saved)


def storage_of(tensor: Tensor) -> Memory:
    """The tensor's storage and its address; None if there is no memory behind it (meta, fake, sparse, empty, lazy)."""
    try:
        storage = tensor.untyped_storage()
        # A fake tensor says "cpu", and asking its storage for an address warns; a plain meta tensor has the address 0.
        if type(tensor) not in PLAIN_TYPES and storage.device.type == "meta":
            return None
        pointer = storage.data_ptr()
    except (RuntimeError, ValueError, AttributeError):
        return None
    return (storage, pointer) if pointer else None


def overlaps(tensors: Sequence[Tensor]) -> list[frozenset[int]]:
    """Return for each tensor the positions of the others whose memory overlaps its own: views of the same storage."""
    holders: dict[int, list[int]] = {}
    for position, tensor in enumerate(tensors):
        if (found := storage_of(tensor)) is not None:
            holders.setdefault(found[1], []).append(position)
    result: list[frozenset[int]] = [frozenset()] * len(tensors)
    for positions in holders.values():
        if len(positions) < 2:
            continue
        reach = {position: _reach(tensors[position]) for position in positions}
        for position, mine in reach.items():
            result[position] = frozenset(
                p for p, other in reach.items() if p != position and mine.start < other.stop and other.start < mine.stop
            )
    return result


def _reach(tensor: Tensor) -> range:
    """The elements of its storage between a dense tensor's first and last."""
    first = tensor.storage_offset()
    return range(first, first + 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)))


def inner_tensors(tensor: Tensor) -> list[Tensor]:
    """The tensors that a sparse tensor, a wrapping subclass or a functorch wrapper consists of; empty for any other."""
    functorch = getattr(torch._C, "_functorch", None)
    if functorch is not None and functorch.is_functorch_wrapped_tensor(tensor):
        return [functorch.get_unwrapped(tensor)]
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    flatten = getattr(tensor, "__tensor_flatten__", None)
    return [getattr(tensor, name) for name in flatten()[0]] if flatten is not None else []


def _place(tensor: Tensor, found: Memory) -> tuple[Any, ...]:
    """What ``tensor.data = ...`` replaces: memory and its reading."""
    strides = tensor.stride() if tensor.layout is torch.strided else ()
    offset = tensor.storage_offset() if found is not None else 0
    return found[1] if found else 0, offset, tuple(tensor.shape), strides, tensor.dtype, tensor.device


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


class TensorState:
    """Everything about one tensor that a forward, a backward or a step can change."""

    __slots__ = (
        "alias",
        "bytes",
        "copy",
        "grad",
        "grad_fn",
        "lazy",
        "leaf",
        "name",
        "place",
        "tensor",
        "trains",
        "version",
    )

    def __init__(self, name: str, tensor: Tensor, watch: Callable[[Tensor, Memory], list[StorageBytes]]) -> None:
        self.name = name
        self.tensor = tensor
        self.trains = tensor.requires_grad
        self.leaf = tensor.is_leaf
        self.grad = tensor.grad if self.leaf else None
        self.grad_fn = None if self.leaf else tensor.grad_fn
        self.lazy = type(tensor) not in PLAIN_TYPES and is_lazy(tensor)
        self.bytes: list[StorageBytes] = []
        self.copy: Tensor | None = None
        if self.lazy:
            return
        self.version = _version(tensor)
        found = storage_of(tensor)
        self.place = _place(tensor, found)
        self.alias = tensor.data
        self.bytes = watch(tensor, found)
        if tensor.layout is torch.sparse_coo or (tensor.is_mkldnn and not self.bytes):
            # In-place arithmetic may exchange what these consist of, not only overwrite it.
            self.copy = tensor.detach().clone()

    def unannounced(self) -> bool:
        """Whether the tensor was written to without a copy having been made."""
        if self.lazy or self.copy is not None or all(part.saved is not None for part in self.bytes):
            return False
        if _version(self.tensor) == self.version:
            return False
        # With memory that was exchanged, what was written to is most likely the new one.
        return _place(self.tensor, storage_of(self.tensor)) == self.place

    def put_back(self) -> None:
        tensor = self.tensor
        if not self.lazy:
            if self.copy is not None:
                if _version(tensor) != self.version or tensor.shape != self.copy.shape:
                    tensor.data = self.copy
            elif _place(tensor, storage_of(tensor)) != self.place:
                tensor.data = self.alias
        if self.leaf and not tensor.is_leaf:
            tensor.detach_()
        if tensor.requires_grad != self.trains:
            tensor.requires_grad_(self.trains)
        if self.leaf:
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        elif tensor.grad_fn is not self.grad_fn:
            raise RuntimeError("the tensor's history was replaced")
