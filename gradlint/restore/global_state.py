"""Read torch's global settings, the warnings filters and the random states, and put back those that changed."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

_Setting = tuple[str, Callable[[], Any], Callable[[Any], Any]]
"""Name, reader and writer of one global setting."""

_leaked_guards: list[AbstractContextManager[Any]] = []
"""Guards that undo an inference mode which user code never left. Ending one out of order would switch it on again."""


def without_torch_function() -> AbstractContextManager[Any]:
    """Return a context in which torch calls bypass modes and subclass overrides."""
    return getattr(torch._C, "DisableTorchFunction", nullcontext)()


def rng_restorers() -> list[Callable[[], object]]:
    """Return one function per random state that exists now; each puts its state back."""
    python, cpu = random.getstate(), torch.get_rng_state()
    restorers: list[Callable[[], object]] = [lambda: random.setstate(python), lambda: torch.set_rng_state(cpu)]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        state = numpy_random.get_state(legacy=False)
        restorers.append(lambda: numpy_random.set_state(state))
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    if initialized():
        devices = torch.cuda.get_rng_state_all()
        restorers.append(lambda: torch.cuda.set_rng_state_all(devices))
    return restorers


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Put the random states of python, numpy and torch back at exit.

    Covered are numpy if it is imported, and CUDA if it is initialised. The user's own generators (``torch.Generator``,
    ``random.Random``) are not covered.
    """
    with without_torch_function():
        restorers = rng_restorers()
    try:
        yield
    finally:
        with without_torch_function():
            for restore in restorers:
                restore()


def _attribute(owner: Any, name: str) -> _Setting:
    return name, lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _default_device() -> torch.device | None:
    """Return the device set through set_default_device, or None.

    A ``with torch.device(...)`` around gradlint's call is no such setting: its owner ends it.
    """
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    device: torch.device | None = getattr(context, "device", None)
    return device


def _set_default_device(device: torch.device | None) -> None:
    torch.set_default_device(device)
    store = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if device is None and getattr(store, "device_context", device) is None:
        # torch 2.4 leaves None as the context, on which its own get_default_device() fails.
        with suppress(AttributeError):
            del store.device_context  # type: ignore[union-attr]


def _leave_inference(inside: bool) -> None:
    guard = torch.inference_mode(inside)
    guard.__enter__()
    _leaked_guards.append(guard)


def _autocast(device: str) -> _Setting:
    def read() -> tuple[bool, torch.dtype]:
        return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def write(state: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, state[0])
        torch.set_autocast_dtype(device, state[1])

    return f"autocast on {device}", read, write


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


# Inference mode comes first: leaving it also sets the grad mode.
_SETTINGS: tuple[_Setting, ...] = (
    ("inference mode", torch.is_inference_mode_enabled, _leave_inference),
    ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    ("default device", _default_device, _set_default_device),
    (
        "deterministic algorithms",
        _deterministic,
        lambda state: torch.use_deterministic_algorithms(state[0], warn_only=state[1]),
    ),
    ("anomaly mode", _anomaly, lambda state: torch.autograd.set_detect_anomaly(state[0], check_nan=state[1])),
    ("number of threads", torch.get_num_threads, torch.set_num_threads),
    ("matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    ("autocast cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    _autocast("cpu"),
    _autocast("cuda"),
    _attribute(torch.backends.cudnn, "enabled"),
    _attribute(torch.backends.cudnn, "benchmark"),
    _attribute(torch.backends.cudnn, "deterministic"),
    _attribute(torch.utils.deterministic, "fill_uninitialized_memory"),
)


class GlobalState:
    """torch's global settings and the warnings filters, as read on construction."""

    def __init__(self) -> None:
        self._states: list[tuple[_Setting, Any]] = []
        for setting in _SETTINGS:
            with suppress(RuntimeError, AttributeError):
                self._states.append((setting, setting[1]()))
        self._filters = warnings.filters
        self._filters_content = list(warnings.filters)

    def put_back(self) -> list[str]:
        """Put back all that changed, and return the names of the settings that refused it."""
        failures = []
        for (name, read, write), state in self._states:
            try:
                # A setting that did not change is left alone: some setters import half of torch.
                if read() != state:
                    write(state)
            except Exception:
                failures.append(name)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            torch.clear_autocast_cache()
        if warnings.filters is not self._filters or list(warnings.filters) != self._filters_content:
            warnings.filters = self._filters
            self._filters[:] = self._filters_content  # type: ignore[index]
            # Entering and leaving this context is the only public way to drop the cache of filter decisions.
            with warnings.catch_warnings():
                pass
        return failures
