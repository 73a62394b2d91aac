"""Save and restore one tensor: its storage's bytes, its flags and its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import Parameter, is_lazy

PLAIN_TYPES = (Tensor, Parameter)
"""Tensor types without overridden memory queries: their storage is the real one."""


Memory = tuple[torch.UntypedStorage, int] | None
"""A storage and its address; None for a tensor without memory."""


class StorageBytes:
    """One storage and, once saved, a view of its bytes and a copy of them."""

    __slots__ = ("nbytes", "saved", "storage")

    def __init__(self, storage: torch.UntypedStorage) -> None:
        self.storage = storage
        self.nbytes = storage.nbytes()
        self.saved: tuple[Tensor, Tensor] | None = None

    def _view(self) -> Tensor:
        return torch.empty(0, dtype=torch.uint8, device=self.storage.device).set_(self.storage)

    def save(self) -> None:
        if self.saved is None and self.storage.nbytes() == self.nbytes:
            view = self._view()
            self.saved = view, view.clone()

    def put_back(self) -> None:
        if self.storage.nbytes() != self.nbytes:
            if self.saved is None and self.nbytes:
                raise RuntimeError("a storage was resized")
            self.storage.resize_(self.nbytes)
        if self.saved is not None:
            view, saved = self.saved
            # Equal bytes are not written back: the memory may be read-only (a mapped file).
            if not torch.equal(view, saved):
                view.copy_(saved)


def is_stale_view(tensor: Tensor) -> bool:
    """Return True if torch raises when it is asked for the history of a tensor.

    Such a tensor is one of several views, as FSDP makes them, whose base was written to since.
    """
    try:
        _ = tensor.grad_fn
    except RuntimeError:
        return True
    return False


def storage_of(tensor: Tensor) -> Memory:
    """Return the tensor's storage and address.

    None for a tensor without memory: meta, fake, sparse, empty, lazy.
    """
    try:
        storage = tensor.untyped_storage()
        # A fake tensor claims to be on the CPU, and its storage warns when asked for an address.
        if type(tensor) not in PLAIN_TYPES and storage.device.type == "meta":
            return None
        pointer = storage.data_ptr()
    except (RuntimeError, ValueError, AttributeError):
        return None
    return (storage, pointer) if pointer else None


def is_readable(tensor: Tensor) -> bool:
    """Return True if a tensor has values in memory, which reading does not crash on.

    It has none if it is on the meta device, fake or lazy, or if its storage was freed (``resize_(0)``), as sharding and
    offloading do between uses.
    """
    if type(tensor) not in PLAIN_TYPES:
        if is_lazy(tensor):
            return False
        if inner := inner_tensors(tensor):
            return all(map(is_readable, inner))
    try:
        storage = tensor.untyped_storage()
        if storage.device.type == "meta":  # where a fake tensor's is too, whatever device it claims
            return False
        if tensor.is_contiguous():
            stop = tensor.storage_offset() + tensor.numel()
        else:
            stop = _span(tensor).stop if tensor.numel() else 0
        return storage.nbytes() >= stop * tensor.element_size()
    except (RuntimeError, NotImplementedError):  # sparse or nested tensors, and those that torch.func wraps
        return all(map(is_readable, inner_tensors(tensor)))


def freed_storage(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor whose memory was freed; None for any other tensor."""
    if is_readable(tensor):
        return None
    try:
        storage = tensor.untyped_storage()
    except (RuntimeError, ValueError, AttributeError):
        return None
    return None if storage.nbytes() else storage


def overlaps(tensors: Sequence[Tensor]) -> list[frozenset[int]]:
    """Return for each tensor the positions of the others whose memory overlaps its own."""
    holders: dict[int, list[int]] = {}
    for position, tensor in enumerate(tensors):
        if (memory := storage_of(tensor)) is not None:
            holders.setdefault(memory[1], []).append(position)
    result: list[frozenset[int]] = [frozenset()] * len(tensors)
    for positions in holders.values():
        if len(positions) < 2:
            continue
        spans = {position: _span(tensors[position]) for position in positions}
        for position, span in spans.items():
            result[position] = frozenset(
                p
                for p, other in spans.items()
                if p != position
                and span.start < other.stop
                and other.start < span.stop
                and _has_common_element(tensors[position], tensors[p])
            )
    return result


def _has_common_element(left: Tensor, right: Tensor) -> bool:
    """Return True if two tensors in one storage, whose spans overlap, have an element in common.

    The columns of a matrix lie between each other without having one.
    """
    dense = left.numel() == len(_span(left)) and right.numel() == len(_span(right))
    if dense or left.dtype != right.dtype or not (is_readable(left) and is_readable(right)):
        return True
    stop = max(_span(left).stop, _span(right).stop)
    with torch.no_grad():
        marks = torch.zeros(stop, dtype=torch.bool)
        marks.as_strided(left.shape, left.stride(), left.storage_offset()).fill_(True)
        return bool(marks.as_strided(right.shape, right.stride(), right.storage_offset()).any())


def _span(tensor: Tensor) -> range:
    """Return the positions in its storage from a dense tensor's first element to its last."""
    first = tensor.storage_offset()
    return range(first, first + 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)))


def same_values(left: Tensor, right: Tensor) -> bool:
    """Return True for equal shape, dtype, device and values, where NaN equals NaN.

    Tensors without readable values are never the same.
    """
    if left.shape != right.shape or left.dtype != right.dtype or left.device != right.device:
        return False
    if not (is_readable(left) and is_readable(right)):
        return False
    with torch.no_grad():
        if torch.equal(left, right):
            return True
        # An optimizer moves most elements: the first one often decides without a pass over all.
        first = (0,) * left.dim()
        if (one := left[first].item()) == one and one != right[first].item():
            return False
        return bool(((left == right) | (left.isnan() & right.isnan())).all())


def inner_tensors(tensor: Tensor) -> list[Tensor]:
    """Return the tensors inside a sparse tensor or a wrapper; none for a plain tensor."""
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
    parts = (getattr(tensor, name) for name in flatten()[0]) if flatten is not None else ()
    return [part for part in parts if isinstance(part, Tensor)]  # a DTensor names its device mesh among them


def _layout(tensor: Tensor, memory: Memory) -> tuple[Any, ...]:
    """Return what ``tensor.data = ...`` replaces: the address and how to read it."""
    strides = tensor.stride() if tensor.layout is torch.strided else ()
    offset = tensor.storage_offset() if memory is not None else 0
    return memory[1] if memory else 0, offset, tuple(tensor.shape), strides, tensor.dtype, tensor.device


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
        "layout",
        "lazy",
        "leaf",
        "name",
        "requires_grad",
        "tensor",
        "version",
    )

    def __init__(self, name: str, tensor: Tensor, watch: Callable[[Tensor, Memory], list[StorageBytes]]) -> None:
        self.name = name
        self.tensor = tensor
        self.requires_grad = tensor.requires_grad
        self.leaf = tensor.is_leaf
        self.grad = tensor.grad if self.leaf else None
        self.grad_fn = None if self.leaf else tensor.grad_fn
        self.lazy = type(tensor) not in PLAIN_TYPES and is_lazy(tensor)
        self.bytes: list[StorageBytes] = []
        self.copy: Tensor | None = None
        if self.lazy:
            return
        self.version = _version(tensor)
        memory = storage_of(tensor)
        self.layout = _layout(tensor, memory)
        self.alias = tensor.data
        self.bytes = watch(tensor, memory)
        if tensor.layout is torch.sparse_coo or tensor.is_mkldnn:
            # In-place arithmetic may exchange the inner tensors of these, not only overwrite them.
            self.copy = tensor.detach().clone() if is_readable(tensor) else None

    def is_unsaved(self) -> bool:
        """Return True if the tensor was written to before its bytes were saved."""
        if self.lazy or self.copy is not None or all(part.saved is not None for part in self.bytes):
            return False
        if _version(self.tensor) == self.version:
            return False
        # If the memory was exchanged, the write most likely went to the new one.
        return _layout(self.tensor, storage_of(self.tensor)) == self.layout

    def put_back(self) -> None:
        tensor = self.tensor
        if not self.lazy:
            if self.copy is not None:
                if _version(tensor) != self.version or tensor.shape != self.copy.shape:
                    tensor.data = self.copy
            elif _layout(tensor, storage_of(tensor)) != self.layout:
                tensor.data = self.alias
        if self.leaf and not tensor.is_leaf:
            tensor.detach_()
        if tensor.requires_grad != self.requires_grad:
            tensor.requires_grad_(self.requires_grad)
        if self.leaf:
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        elif tensor.grad_fn is not self.grad_fn:
            raise RuntimeError("the tensor's history was replaced")
