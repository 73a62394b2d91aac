"""The user's process and objects, as one table that compares: name → what is there."""

from __future__ import annotations

import asyncio
import builtins
import gc
import linecache
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

import torch
import torch.utils._device
from bits import container_bits, model_bits
from torch import nn
from torch.nn.modules import module as module_hooks
from torch.optim.lr_scheduler import LRScheduler
from torch.utils import _python_dispatch

import gradlint.markers
import gradlint.system.undo

optimizer_hooks = sys.modules["torch.optim.optimizer"]  # the package hides its module

Table = dict[str, Any]


def _collector_callbacks() -> list[Any]:
    """Return what the garbage collector calls, without the clock that hypothesis adds when its first test runs."""
    return [call for call in gc.callbacks if not getattr(call, "__module__", "").startswith("hypothesis.")]


class Same:
    """An object that equals itself alone, and is kept alive."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.thing is self.thing

    def __repr__(self) -> str:
        return f"<{type(self.thing).__name__} {id(self.thing):x}>"

    __hash__ = None  # type: ignore[assignment]


def _all_subclasses(cls: type) -> Iterator[type]:
    yield cls
    for subclass in cls.__subclasses__():
        yield from _all_subclasses(subclass)


def _owners() -> Iterator[tuple[str, Any]]:
    """Yield everything whose attributes gradlint may replace."""
    yield from (
        ("torch", torch),
        ("Tensor", torch.Tensor),
        ("Module", nn.Module),
        ("Parameter", nn.Parameter),
        ("Parameter's type", type(nn.Parameter)),
        ("Variable's type", type(torch.autograd.Variable)),
        ("autograd", torch.autograd),
        ("cuda", torch.cuda),
        ("cuda.memory", torch.cuda.memory),
        ("nvtx", torch.cuda.nvtx),
        ("torch.utils", torch.utils),
        ("serialization", torch.serialization),
        ("DeviceContext", torch.utils._device.DeviceContext),
        ("UntypedStorage", torch.UntypedStorage),
        ("TypedStorage", torch.TypedStorage),
        ("inference_mode", torch.inference_mode),
        ("GradScaler", torch.amp.GradScaler),
        ("Thread", threading.Thread),
        ("warnings", warnings),
        ("builtins", builtins),
        ("os", os),
    )
    for cls in (*_all_subclasses(torch.optim.Optimizer), *_all_subclasses(LRScheduler)):
        yield f"{cls.__module__}.{cls.__name__}", cls


_OTHERS = {"__warningregistry__", "__doc__", "__abstractmethods__", "_abc_impl", "_onceregistry", "filters"}


def _attributes() -> Iterator[tuple[str, Any]]:
    for name, owner in _owners():
        for key, value in list(vars(owner).items()):
            if key not in _OTHERS:
                yield f"{name}.{key}", Same(value)
            function = value
            while isinstance(function, FunctionType):
                for number, cell in enumerate(function.__closure__ or ()):
                    try:
                        yield f"{name}.{key} closes over {number} of {function.__name__}", Same(cell.cell_contents)
                    except ValueError:
                        continue
                function = vars(function).get("__wrapped__")
    for marker in (gradlint.markers.constant, gradlint.markers.differentiable):
        yield f"code of {marker.__name__}", Same(marker.__code__)


def _global_hooks() -> Iterator[tuple[str, Any]]:
    for home in (module_hooks, optimizer_hooks):
        for name, value in vars(home).items():
            if name.startswith("_global") and isinstance(value, dict):
                yield name, [Same(hook) for hook in value.values()]


def _modes() -> Iterator[tuple[str, Any]]:
    yield "function modes", [Same(m) for m in torch.overrides._get_current_function_mode_stack()]
    yield "dispatch modes", [Same(m) for m in _python_dispatch._get_current_dispatch_mode_stack()]
    if hasattr(torch._C._autograd, "_top_saved_tensors_default_hooks"):  # torch 2.4 cannot tell
        yield "saved-tensor hooks", torch._C._autograd._top_saved_tensors_default_hooks(True)
    yield "default device", (torch.get_default_device(), torch.utils._device.CURRENT_DEVICE)
    for name in (
        "is_grad_enabled is_inference_mode_enabled get_default_dtype are_deterministic_algorithms_enabled "
        "is_deterministic_algorithms_warn_only_enabled is_anomaly_enabled is_anomaly_check_nan_enabled "
        "is_autocast_cache_enabled get_num_threads get_num_interop_threads get_float32_matmul_precision "
        "is_warn_always_enabled"
    ).split():
        yield name, getattr(torch, name)()
    for device in ("cpu", "cuda"):
        yield f"autocast on {device}", (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))
    yield (
        "conversion",
        (
            torch.__future__.get_swap_module_params_on_conversion(),
            torch.__future__.get_overwrite_module_params_on_conversion(),
        ),
    )


def _random_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state().tolist()
    if isinstance(generator, random.Random):
        return generator.getstate()
    bits = getattr(generator, "bit_generator", None)
    return repr(bits.state if bits is not None else generator.get_state(legacy=False))


def _random() -> Iterator[tuple[str, Any]]:
    yield "python's random state", random.getstate()
    yield "torch's random state", torch.get_rng_state().tolist()
    numpy = sys.modules.get("numpy.random")
    if numpy is not None:
        yield "numpy's random state", repr(numpy.get_state(legacy=False))


def _system() -> Iterator[tuple[str, Any]]:
    for name in ("path", "argv", "path_hooks", "meta_path", "warnoptions"):
        yield f"sys.{name}", (Same(getattr(sys, name)), list(getattr(sys, name)))
    for name in ("stdin", "stdout", "stderr", "excepthook", "unraisablehook", "displayhook", "breakpointhook"):
        yield f"sys.{name}", Same(getattr(sys, name))
    yield "sys.gettrace", Same(sys.gettrace())
    yield "sys.getprofile", Same(sys.getprofile())
    yield "recursion limit", sys.getrecursionlimit()
    yield "dont_write_bytecode", sys.dont_write_bytecode
    if hasattr(sys, "monitoring"):
        yield "monitoring tools", [sys.monitoring.get_tool(i) for i in range(6)]
    here = os.getcwd()
    yield "working directory", here
    yield "environment", dict(os.environ)
    yield "signal handlers", [Same(signal.getsignal(n)) for n in sorted(signal.valid_signals())]
    yield "threads", sorted(thread.name for thread in threading.enumerate())
    yield "threading hooks", (Same(threading.gettrace()), Same(threading.getprofile()))
    if os.path.isdir("/proc/self/fd"):
        yield "descriptors", len(os.listdir("/proc/self/fd"))
    policy = asyncio.get_event_loop_policy()
    yield "event loop", Same(getattr(getattr(policy, "_local", None), "_loop", None))
    yield "lines of source", sorted(name for name in linecache.cache if "/gradlint/" not in name)
    yield "warnings filters", (Same(warnings.filters), list(warnings.filters))
    yield (
        "collector",
        (gc.isenabled(), gc.get_threshold(), gc.get_debug(), _collector_callbacks(), gc.get_freeze_count() > 0),
    )
    loggers = [logging.getLogger(), *(log for log in logging.Logger.manager.loggerDict.values())]
    yield (
        "logging",
        [
            (log.name, log.level, log.disabled, log.propagate, [Same(h) for h in log.handlers])
            for log in loggers
            if isinstance(log, logging.Logger) and not log.name.startswith("gradlint")
        ],
    )


def _modules() -> Iterator[tuple[str, Any]]:
    """Yield the modules that are neither gradlint's nor a library's."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) if isinstance(module, ModuleType) else None
        if file and "site-packages" not in file and "/gradlint/" not in file and not name.startswith(("torch", "_")):
            if not file.startswith(os.path.dirname(os.__file__)):
                yield f"sys.modules[{name!r}]", Same(module)


_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")


def _hooks_of(thing: Any) -> list[Any]:
    own = ((k, v) for k, v in vars(thing).items() if "hook" in k)
    return [(k, [Same(h) for h in v.values()] if isinstance(v, dict) else v) for k, v in own]


def hooks(models: Iterable[nn.Module] = (), optimizers: Iterable[Any] = ()) -> Table:
    """Return the hooks of modules, of their tensors and of optimizers."""
    table: Table = {}
    for number, model in enumerate(models):
        for name, module in model.named_modules():
            table[f"hooks of module {number} {name}"] = _hooks_of(module)
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            hooks = [getattr(tensor, h) for h in _HOOKS]
            table[f"hooks of tensor {number} {name}"] = [h and [Same(v) for v in h.values()] for h in hooks]
    for number, optimizer in enumerate(optimizers):
        table[f"hooks of optimizer {number}"] = _hooks_of(optimizer)
        table[f"step of optimizer {number}"] = Same(vars(optimizer).get("step"))
    return table


def values(models: Iterable[nn.Module] = (), stateful: Iterable[Any] = (), generators: Iterable[Any] = ()) -> Table:
    """Return the content of models, of optimizers and the like, and of generators."""
    table: Table = dict(_random())
    for number, model in enumerate(models):
        table[f"model {number}"] = model_bits(model)
    for number, thing in enumerate(stateful):
        table[f"state of {type(thing).__name__} {number}"] = container_bits({**vars(thing)})[1]
    for number, generator in enumerate(generators):
        table[f"generator {number}"] = _random_state(generator)
    return table


def cheap() -> Table:
    """Return what a fixture can compare around every test."""
    table: Table = {
        "function modes": [Same(m) for m in torch.overrides._get_current_function_mode_stack()],
        "torch functions": torch._C._is_torch_function_enabled(),
        "open turns": len(gradlint.system.undo.Turn._queue),
        "replaced attributes": sorted(name for _, name in gradlint.system.undo._Layer.stacks),
        "collector's callbacks": _collector_callbacks(),
        "sys.getprofile": Same(sys.getprofile()),
    }
    if hasattr(sys, "monitoring"):
        table["monitoring tools"] = [sys.monitoring.get_tool(i) for i in (3, 4)]
    return table | dict(_global_hooks())


def process() -> Table:
    """Return the state of the process."""
    parts = (_attributes(), _global_hooks(), _modes(), _system(), _modules())
    return {name: value for part in parts for name, value in part} | cheap()


def mend() -> None:
    """End what recordings have left open, so that a later one begins anew."""
    for turn in reversed(list(gradlint.system.undo.Turn._queue)):
        turn.end()


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Return the names of what is not as it was."""
    return [
        f"{name}: {str(before.get(name))[:60]} → {str(after.get(name))[:60]}"
        for name in {**before, **after}
        if name not in after or name not in before or not before[name] == after[name]
    ]
