"""The path of a run: its torch calls, where they stand, the parameters that they read and the shapes of their results.

A crop of the same shape at another place is no other path: its position is a value that the loss depends on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

_TORCH = os.path.dirname(torch.__file__) + os.sep


class RunPath(TorchFunctionMode):
    """Records the path of the run inside of it; each run begins a new one."""

    def __init__(self, parameters: Collection[int]) -> None:
        """Take the identities of known parameters: one that a run makes is new in each run."""
        super().__init__()
        self._parameters = parameters
        self._path = 0
        self._positions: dict[CodeType, list[object]] = {}

    def taken(self) -> int:
        """Return the path of the last run, as one number."""
        return self._path

    def __enter__(self) -> RunPath:
        """Begin a path."""
        self._path = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call and add it to the path."""
        result = func(*args, **(kwargs or {}))
        parameters = tuple(id(a) * (id(a) in self._parameters) for a in args if type(a) is Parameter)
        name = getattr(func, "__name__", "")
        shape = tuple(result.shape) if isinstance(result, Tensor) and not result.is_nested else ()
        self._path = hash((self._path, name, parameters, shape, *self._place()))
        return result

    def _place(self) -> tuple[str, object]:
        """Return the file and the place in its text, outside of torch, of the present call."""
        frame = sys._getframe(2)
        while frame.f_code.co_filename.startswith(_TORCH) and frame.f_back is not None:
            frame = frame.f_back
        code = frame.f_code
        if sys.version_info < (3, 11):
            return code.co_filename, (code.co_firstlineno, frame.f_lasti)
        # Not the instruction: Python 3.11 makes a call by another one once the function has run a few times.
        if code not in self._positions:
            self._positions[code] = list(code.co_positions())
        return code.co_filename, self._positions[code][frame.f_lasti // 2]
