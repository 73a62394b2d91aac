"""Keep optimizers from importing torch's compiler, an import as slow as that of torch itself.

Their methods need it for compiled code only. Once the compiler is imported, they are left alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import CellType, FunctionType
from typing import Any

import torch
from torch.optim import Optimizer

from gradlint.system.undo import Undo

_DECORATOR = os.path.join("torch", "_compile.py")
"""File of torch's decorator against compiling."""
_OPTIMIZER = os.path.join("torch", "optim", "optimizer.py")
"""File of the decorator that sets the grad mode of a step and splits the compiled graph there."""


def without_compiler_guard(function: Any) -> Any:
    """Return the function inside torch's decorator against compiling, or the function itself."""
    if "torch._dynamo" in sys.modules or not _defined_in(function, _DECORATOR):
        return function
    return getattr(function, "__wrapped__", function)


def bypass_compiler(undo: Undo, cls: type[Optimizer]) -> None:
    """Keep the steps of an optimizer's class from importing the compiler.

    It ends with `undo`. The wrappers that torch puts around a step stay, and so do all hooks; only the innermost
    function is replaced.
    """
    step: Any = getattr(cls, "step", None)
    while isinstance(step, FunctionType):
        for cell in step.__closure__ or ():
            held = _content(cell)
            if _sets_grad_mode(held):
                undo.replace(cell, "cell_contents", _plain(held))
        step = vars(step).get("__wrapped__")


def _plain(decorated: Any) -> Callable[..., Any]:
    function = decorated.__wrapped__

    def step(self: Optimizer, *args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return decorated(self, *args, **kwargs)
        before = torch.is_grad_enabled()
        try:
            torch.set_grad_enabled(self.defaults["differentiable"])
            return function(self, *args, **kwargs)
        finally:
            torch.set_grad_enabled(before)

    return step


def _sets_grad_mode(function: Any) -> bool:
    """Return True if torch's decorator for optimizer steps made this function."""
    return (
        _defined_in(function, _OPTIMIZER)
        and "_dynamo" in function.__code__.co_names
        and callable(getattr(function, "__wrapped__", None))
    )


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # empty
        return None


def _defined_in(function: Any, file: str) -> bool:
    code = getattr(function, "__code__", None)
    return code is not None and code.co_filename.endswith(file)
