"""The recorder. The package is also the function ``gradlint.record(model, optimizer=...)``: `gradlint.recordings`."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A module that can be called: importing any part of the package puts it in the place of a function's name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gradlint.recordings import Recording  # needs torch

        return Recording(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
