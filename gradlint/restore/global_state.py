"""torch's global switches, the warnings filters and the random states: read, and put back where they changed."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch

__all__ = ["GlobalState", "isolated_rng", "rng_restorers", "without_torch_function"]

_leaked_guards: list[AbstractContextManager[Any]] = []
"""Guards that undo an inference mode which user code never left; ending one out of order would undo the undoing."""


def without_torch_function() -> AbstractContextManager[Any]:
    """Keeps function modes and tensor subclasses' ``__torch_function__`` out of the book-keeping."""
    return getattr(torch._C, "DisableTorchFunction", nullcontext)()


def rng_restorers() -> list[Callable[[], object]]:
    """One call per random state that exists now; each puts that state back."""
    python, cpu = random.getstate(), torch.get_rng_state()
    puts: list[Callable[[], object]] = [lambda: random.setstate(python), lambda: torch.set_rng_state(cpu)]
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        state = numpy_random.get_state(legacy=False)
        puts.append(lambda: numpy_random.set_state(state))
    initialized: Callable[[], bool] = torch.cuda.is_initialized
    if initialized():
        devices = torch.cuda.get_rng_state_all()
        puts.append(lambda: torch.cuda.set_rng_state_all(devices))
    return puts


@contextmanager
def isolated_rng() -> Iterator[None]:
    """Puts the random states of python, numpy (if imported) and torch (CPU; CUDA if initialised) back on exit.

    Generators of the user's own (``torch.Generator``, ``random.Random``) are not covered.
    """
    with without_torch_function():
        puts = rng_restorers()
    try:
        yield
    finally:
        with without_torch_function():
            for put in puts:
                put()


def _attribute(owner: Any, name: str) -> tuple[str, Callable[[], Any], Callable[[Any], Any]]:
    return name, lambda: getattr(owner, name), lambda value: setattr(owner, name, value)


def _default_device() -> torch.device | None:
    """The device set through set_default_device, or None: a ``with torch.device(...)`` around us is its owner's."""
    context = getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
    device: torch.device | None = getattr(context, "device", None)
    return device


def _set_default_device(device: torch.device | None) -> None:
    torch.set_default_device(device)
    store = getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None)
    if device is None and getattr(store, "device_context", device) is None:
        # torch 2.4 leaves a None behind, on which its own get_default_device() fails.
        with suppress(AttributeError):
            del store.device_context  # type: ignore[union-attr]


def _leave_inference(inside: bool) -> None:
    guard = torch.inference_mode(inside)
    guard.__enter__()
    _leaked_guards.append(guard)


def _autocast(device: str) -> tuple[str, Callable[[], Any], Callable[[Any], Any]]:
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
_SETTINGS: tuple[tuple[str, Callable[[], Any], Callable[[Any], Any]], ...] = (
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
    """torch's global switches and the warnings filters, read on construction."""

    def __init__(self) -> None:
        self.states: list[tuple[str, Callable[[], Any], Callable[[Any], Any], Any]] = []
        for name, read, write in _SETTINGS:
            with suppress(RuntimeError, AttributeError):
                self.states.append((name, read, write, read()))
        self.filters = warnings.filters
        self.filters_content = list(warnings.filters)

    def put_back(self) -> list[str]:
        failed = []
        for name, read, write, state in self.states:
            try:
                # Only what changed is written: some setters import half of torch.
                if read() != state:
                    write(state)
            except Exception:
                failed.append(name)
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            torch.clear_autocast_cache()
        if warnings.filters is not self.filters or list(warnings.filters) != self.filters_content:
            warnings.filters = self.filters
            self.filters[:] = self.filters_content  # type: ignore[index]
            # Entering and leaving this context is the public way to drop the cache of filter decisions.
            with warnings.catch_warnings():
                pass
        return failed
