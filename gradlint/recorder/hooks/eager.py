"""Keep parts under torch.compile eager: compiled code passes no function mode."""

from __future__ import annotations

import os
import sys
from typing import Any

import torch

from gradlint.system.undo import Undo

_stance: Any = getattr(getattr(torch, "compiler", None), "set_stance", None)
"""The function that switches compilation off, in torch 2.6 and newer; else None."""
_VARIABLE = "TORCHDYNAMO_DISABLE"
"""The variable from which the compiler's configuration reads whether it is off."""


def prepare_to_force_eager(undo: Undo) -> None:
    """Make torch.compile return its argument, before torch 2.6.

    `force_eager` cannot switch compilation off there. Functions compiled earlier stay compiled.
    """
    if _stance is not None:
        return
    loaded = getattr(sys.modules.get("torch._dynamo"), "config", None)
    undo.call(_put_back, os.environ.get(_VARIABLE), loaded, getattr(loaded, "disable", None))
    os.environ[_VARIABLE] = "1"
    if loaded is not None:
        loaded.disable = True


def force_eager(undo: Undo) -> None:
    """Switch compilation off, after build().

    The compiler, whose import takes a second, is imported only if user code does so.
    """
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    if _stance is not None and compiler is not None:
        undo.call(setattr, compiler, "_stance", compiler._stance)
        _stance("force_eager")


def _put_back(before: str | None, loaded: Any, disable: Any) -> None:
    if before is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = before
    config = getattr(sys.modules.get("torch._dynamo"), "config", None)
    if config is not None:
        config.disable = disable if loaded is not None else bool(before)
