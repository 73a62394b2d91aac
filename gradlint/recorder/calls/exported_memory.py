"""Remember exported memory by its address: an array made of a tensor may come back as a tensor."""

from __future__ import annotations

import weakref
from bisect import bisect_right, insort
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound="weakref.ref[Any]")


class ExportedMemory(Generic[T]):
    """Finds the living tensors that exported the memory at an address.

    Dead entries are dropped: a data set exports each of its images once, and none of them lives for long.
    """

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._blocks: dict[int, _Block[T]] = {}

    def __bool__(self) -> bool:
        return bool(self._starts)

    def clear(self) -> None:
        """Forget everything."""
        self._starts.clear()
        self._blocks.clear()

    def add(self, start: int, end: int, tensor: T) -> None:
        """Note that a tensor inside the memory between two addresses exported it."""
        block = self._blocks.get(start)
        if block is None:
            block = self._blocks[start] = _Block()
            insort(self._starts, start)
        block.add(end, tensor)

    def forget(self, tensor: T) -> None:
        """Keep no reference to a tensor."""
        for block in self._blocks.values():
            block.forget(tensor)

    def at(self, address: int) -> list[T]:
        """Return the living tensors that exported the memory at an address."""
        number = bisect_right(self._starts, address)
        while number:
            number -= 1
            start = self._starts[number]
            block = self._blocks[start]
            if block.lives():  # blocks of living tensors do not overlap
                return block.living() if address < block.end else []
            del self._starts[number], self._blocks[start]
        return []


class _Block(Generic[T]):
    def __init__(self) -> None:
        self.end = 0
        self._tensors: list[T] = []
        self._enough = 16

    def add(self, end: int, tensor: T) -> None:
        self.end = end
        self._tensors.append(tensor)
        if len(self._tensors) > self._enough:
            self._enough = 16 + 2 * len(self.living())

    def forget(self, tensor: T) -> None:
        self._tensors = [other for other in self._tensors if other is not tensor]

    def lives(self) -> bool:
        return bool(self._tensors) and (self._tensors[-1]() is not None or bool(self.living()))

    def living(self) -> list[T]:
        self._tensors = [tensor for tensor in self._tensors if tensor() is not None]
        return self._tensors
