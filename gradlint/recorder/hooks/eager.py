"""Keep parts under torch.compile eager: compiled code passes no function mode."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

_stance: Any = getattr(getattr(torch, "compiler", None), "set_stance", None)
"""The function that switches compilation off, in torch 2.6 and newer; else None."""


@contextlib.contextmanager
def forcing_eager() -> Iterator[Callable[[], None]]:
    """Yield a function that switches compilation off, to be called after build().

    The compiler, whose import takes a second, is imported only if user code does so. Before torch 2.6, functions
    compiled before this context stay compiled.
    """
    with contextlib.ExitStack() as stack:
        if _stance is not None:

            def force() -> None:
                if "torch._dynamo" in sys.modules:
                    stack.enter_context(_stance("force_eager"))

            yield force
        else:
            stack.enter_context(_compiler_off())
            yield lambda: None


@contextlib.contextmanager
def _compiler_off() -> Iterator[None]:
    """Make torch.compile return its argument, by the variable that its configuration reads."""
    variable = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(variable)
    loaded = getattr(sys.modules.get("torch._dynamo"), "config", None)
    disable = getattr(loaded, "disable", None)
    os.environ[variable] = "1"
    if loaded is not None:
        loaded.disable = True
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(variable, None)
        else:
            os.environ[variable] = before
        config = getattr(sys.modules.get("torch._dynamo"), "config", None)
        if config is not None:
            config.disable = disable if loaded is not None else bool(before)
