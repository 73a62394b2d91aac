"""Keeps torch.compile'd parts forcing_eager: what runs compiled passes no function mode."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

_stance: Any = getattr(getattr(torch, "compiler", None), "set_stance", None)
"""Only in torch 2.6 and newer."""


@contextlib.contextmanager
def forcing_eager() -> Iterator[Callable[[], None]]:
    """Yields what is to be called once the user's code has been built, before it runs.

    Never imports the compiler, which takes a second, unless the user's code does. Before torch 2.6, what the user
    compiled before the context was entered stays compiled.
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
    """Make torch.compile give back what it is given, by the switch that its configuration reads at import."""
    variable = "TORCHDYNAMO_DISABLE"
    before = os.environ.get(variable)
    loaded = getattr(sys.modules.get("torch._dynamo"), "config", None)
    kept = getattr(loaded, "disable", None)
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
            config.disable = kept if loaded is not None else bool(before)
