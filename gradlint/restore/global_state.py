"""Read torch's global settings, the warnings filters and the random states, and put back those that changed."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import torch
import torch.utils._device

from gradlint.restore.mode_stack import ModeStack, dispatch_modes, function_modes
from gradlint.system.undo import Undo

_Setting = tuple[str, Callable[[], Any], Callable[[Any], Any]]
"""Name, reader and writer of one global setting."""

_ABSENT = object()
_leaked_guards: list[AbstractContextManager[Any]] = []
"""Guards that undo an inference mode which user code never left. Ending one out of order would switch it on again."""


def without_torch_function() -> AbstractContextManager[Any]:
    """Return a context in which torch calls bypass modes and subclass overrides."""
    return getattr(torch._C, "DisableTorchFunction", nullcontext)()


def keep_torch_functions(undo: Undo) -> None:
    """Put back at the end whether calls of torch reach modes.

    An interrupt may cut `without_torch_function` short.
    """
    state: Any = torch._C
    if hasattr(state, "_get_torch_function_state"):
        undo.call(state._set_torch_function_state, state._get_torch_function_state())


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


def _attributes(name: str, *places: tuple[Any, str]) -> _Setting:
    """Return a setting that is held by attributes, which may be absent."""

    def read() -> tuple[Any, ...]:
        return tuple(getattr(owner, attribute, _ABSENT) for owner, attribute in places)

    def write(values: tuple[Any, ...]) -> None:
        for (owner, attribute), value in zip(places, values, strict=True):
            if value is not _ABSENT:
                setattr(owner, attribute, value)
            elif hasattr(owner, attribute):
                delattr(owner, attribute)

    return name, read, write


def _stack(name: str, stack: ModeStack) -> _Setting:
    return name, lambda: _Identities(stack.read()), stack.put_back


class _Identities(list[Any]):
    """A list that equals another one with the very same objects."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and list(map(id, self)) == list(map(id, other))

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None


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


def _saved_tensor_hooks() -> _Setting:
    """Return the setting of the innermost ``saved_tensors_hooks``.

    Those that are left over can only be removed.
    """
    module: Any = torch._C._autograd

    def read() -> Any:
        return module._top_saved_tensors_default_hooks(True)

    def write(hooks: Any) -> None:
        for _ in range(100):
            if read() in (hooks, None):
                break
            module._pop_saved_tensors_default_hooks()

    return "hooks of saved tensors", read, write


# Inference mode comes first: leaving it also sets the grad mode.
_SETTINGS: tuple[_Setting, ...] = (
    ("inference mode", torch.is_inference_mode_enabled, _leave_inference),
    ("grad mode", torch.is_grad_enabled, torch.set_grad_enabled),
    ("default dtype", torch.get_default_dtype, torch.set_default_dtype),
    _stack("function modes", function_modes),
    _stack("dispatch modes", dispatch_modes),
    # `with torch.device(...)` is a function mode; this is what set_default_device keeps besides
    _attributes(
        "default device",
        (getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context"),
        (torch.utils._device, "CURRENT_DEVICE"),
    ),
    _saved_tensor_hooks(),
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
    (
        "swapping on conversion",
        torch.__future__.get_swap_module_params_on_conversion,
        torch.__future__.set_swap_module_params_on_conversion,
    ),
    (
        "overwriting on conversion",
        torch.__future__.get_overwrite_module_params_on_conversion,
        torch.__future__.set_overwrite_module_params_on_conversion,
    ),
    ("warnings always", torch.is_warn_always_enabled, torch.set_warn_always),
    ("flash attention", torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.enable_flash_sdp),
    (
        "memory-efficient attention",
        torch.backends.cuda.mem_efficient_sdp_enabled,
        torch.backends.cuda.enable_mem_efficient_sdp,
    ),
    ("plain attention", torch.backends.cuda.math_sdp_enabled, torch.backends.cuda.enable_math_sdp),
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
