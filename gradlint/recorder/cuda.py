"""Run code written for CUDA on the CPU, to record it on a machine without a GPU."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from gradlint.restore.tensors import storage_of
from gradlint.system.undo import Undo

_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


class CpuStandIn:
    """Lets code written for CUDA run on the CPU while it is entered on a machine without CUDA.

    The public functions of ``torch.cuda`` that would raise are replaced, and put back at exit. The results of
    ``torch.cuda.is_available`` and ``device_count`` stay true. A TorchFunctionMode calls `rewrite` for each call that
    names a device; it turns CUDA devices into the CPU. Where CUDA is available, nothing is done.

    Known limits: ``tensor.is_cuda`` and ``tensor.device`` stay true as well, so ``assert x.is_cuda`` fails. CUDA
    graphs, extensions and Triton kernels do not run.

    Attributes:
        used: whether anything was rewritten or replaced.
    """

    functions: ClassVar[frozenset[Any]] = frozenset(
        {
            torch.Tensor.cuda,
            torch.Tensor.to,
            torch.Tensor.type,
            torch.Tensor.pin_memory,
        }
    )
    """Functions whose every call goes to `rewrite`."""

    keywords: ClassVar[frozenset[str]] = frozenset({"device", "pin_memory"})
    """Keyword arguments that send a call of any function to `rewrite`."""

    def __init__(self) -> None:
        self.used = False
        self.active = False
        self._undo = Undo()
        self._originals: dict[int, tuple[Any, Any]] = {}
        """Identity of a replacement → (replacement, original)."""
        self._loaded: frozenset[str] = frozenset()
        self._moved: set[int] = set()

    def __enter__(self) -> CpuStandIn:
        if torch.cuda.is_available() or self.active:
            return self
        self.active = True
        self._loaded = frozenset(sys.modules)
        self._replace_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.active = False
        self._undo.close()
        self._give_originals()
        self._originals.clear()
        self._moved.clear()

    def _give_originals(self) -> None:
        """Put the originals into modules that imported a replacement meanwhile.

        ``from torch.cuda import Event`` copies the replacement.
        """
        originals = self._originals
        for name in [name for name in sys.modules if name not in self._loaded] if originals else ():
            module = sys.modules[name]
            for key, value in list(getattr(module, "__dict__", {}).items()):
                if id(value) in originals:
                    setattr(module, key, originals[id(value)][1])
                elif isinstance(value, type) and value.__module__ == name:
                    for attribute, held in list(vars(value).items()):
                        if id(held) in originals:
                            setattr(value, attribute, originals[id(held)][1])

    def rewrite(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> _Call | None:
        """Return the (func, args, kwargs) of the call to make on the CPU; None to leave it."""
        if not self.active:
            return None
        kwargs = kwargs or {}
        if func in self.functions:
            return self._rewrite_method(func, args, kwargs)
        changed = None
        if names_cuda(kwargs.get("device"), index=True):
            changed = {**kwargs, "device": "cpu"}
        if kwargs.get("pin_memory") is True:
            changed = {**(changed or kwargs), "pin_memory": False}
        if changed is None:
            return None
        self.used = True
        return func, args, changed

    def _rewrite_method(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call | None:
        tensor, rest = args[0], args[1:]
        if func is torch.Tensor.cuda:
            self.used = True
            return self._moved_to_cpu(tensor, (), {k: v for k, v in kwargs.items() if k == "memory_format"})
        if func is torch.Tensor.to:
            if "device" in kwargs and names_cuda(kwargs["device"], index=True):
                kwargs = {k: v for k, v in kwargs.items() if k != "device"}
            elif rest and names_cuda(rest[0], index=True):
                rest = rest[1:]
            else:
                return None
            self.used = True
            return self._moved_to_cpu(tensor, rest, kwargs)
        if func is torch.Tensor.type:
            name = rest[0] if rest else kwargs.get("dtype")
            if not isinstance(name, str) or not name.startswith("torch.cuda."):
                return None
            self.used = True
            plain = name.replace("torch.cuda.", "torch.")
            return func, (tensor, plain, *rest[1:]), {k: v for k, v in kwargs.items() if k != "dtype"}
        if func is torch.Tensor.pin_memory:
            self.used = True
            return _itself, args, kwargs
        return None

    def _moved_to_cpu(self, tensor: torch.Tensor, rest: tuple[Any, ...], kwargs: dict[str, Any]) -> _Call:
        # Moving a leaf that requires grad to the GPU gives a copy that is no leaf, a classic mistake: so it does here.
        # Module.cuda moves under no_grad and keeps its parameters. A storage moved once is on the "GPU" already.
        memory = storage_of(tensor)
        address = memory[1] if memory is not None else None
        leaf = tensor.is_leaf and tensor.requires_grad and torch.is_grad_enabled()
        if address is not None and not leaf:
            self._moved.add(address)
        if leaf and address not in self._moved and len(rest) < 3:
            kwargs = {**kwargs, "copy": True}
        return torch.Tensor.to, (tensor, "cpu", *rest), kwargs

    def _replace(self, owner: Any, name: str, new: Any) -> None:
        """Replace a public name if it exists."""
        if not hasattr(owner, name):
            return
        if name in vars(owner):
            self._originals.setdefault(id(new), (new, vars(owner)[name]))
        self._undo.replace(owner, name, new)

    def _replace_all(self) -> None:
        cuda = torch.cuda
        for name, answer in _ANSWERS.items():
            self._replace(cuda, name, answer if name in _ASKED_BY_LIBRARIES else self._answering(answer))
            if hasattr(cuda, "memory") and hasattr(cuda.memory, name):
                self._replace(cuda.memory, name, getattr(cuda, name))
        for name, stand_in in (("Stream", _Stream), ("Event", _Event), ("device", _Block), ("device_of", _Block)):
            self._replace(cuda, name, stand_in)
        self._replace(cuda, "ExternalStream", _Stream)
        for name in ("range_push", "range_pop", "range_start", "range_end", "mark"):
            self._replace(cuda.nvtx, name, lambda *args, **kwargs: 0)
        self._replace(cuda.nvtx, "range", _Block)
        for name in ("Float", "Double", "Half", "BFloat16", "Byte", "Char", "Short", "Int", "Long", "Bool"):
            self._replace(cuda, name + "Tensor", getattr(torch, name + "Tensor"))
        self._replace(torch.UntypedStorage, "cuda", lambda storage, *args, **kwargs: storage)
        self._replace(torch.TypedStorage, "cuda", lambda storage, *args, **kwargs: storage)
        # The argument parser refuses a replaced stream before a function mode sees the call.
        self._replace(torch.Tensor, "record_stream", _nothing)
        self._replace_sync_batch_norm()
        self._replace_process_group()
        self._replace_module_to()
        self._replace_load()
        self._replace_generator()
        self._replace_default_device()

    def _answering(self, answer: Callable[[], Any]) -> Callable[..., Any]:
        def stand_in(*args: Any, **kwargs: Any) -> Any:
            self.used = True
            return answer()

        return stand_in

    def _replace_sync_batch_norm(self) -> None:
        """Let SyncBatchNorm run on the CPU, with the statistics of this process alone."""
        synchronized, local, stand_in = torch.nn.SyncBatchNorm.forward, torch.nn.BatchNorm1d.forward, self

        def forward(module: torch.nn.SyncBatchNorm, input: torch.Tensor) -> torch.Tensor:
            distributed = torch.distributed
            if input.device.type != "cpu" or not (distributed.is_available() and distributed.is_initialized()):
                return synchronized(module, input)
            stand_in.used = True
            return local(module, input)

        self._replace(torch.nn.SyncBatchNorm, "forward", forward)

    def _replace_process_group(self) -> None:
        """Let processes that would talk through NCCL, which needs GPUs, talk through Gloo."""
        distributed, stand_in = torch.distributed, self
        if not distributed.is_available():
            return
        init = distributed.init_process_group

        def init_process_group(backend: Any = None, *args: Any, **kwargs: Any) -> Any:
            if isinstance(backend, str) and "nccl" in backend.lower():
                stand_in.used = True
                backend = "gloo"
            if names_cuda(kwargs.get("device_id"), index=True):
                del kwargs["device_id"]
            return init(backend, *args, **kwargs)

        self._replace(distributed, "init_process_group", init_process_group)
        self._replace(distributed.distributed_c10d, "init_process_group", init_process_group)
        self._replace_device_mesh()

    def _replace_device_mesh(self) -> None:
        from torch.distributed import device_mesh

        make, stand_in = device_mesh.init_device_mesh, self

        def init_device_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
            if names_cuda(device_type):
                stand_in.used = True
                device_type = "cpu"
            return make(device_type, *args, **kwargs)

        self._replace(device_mesh, "init_device_mesh", init_device_mesh)
        self._replace(torch.distributed, "init_device_mesh", init_device_mesh)

    def _replace_module_to(self) -> None:
        """Let modules move to a GPU that is given by its number, and wrappers name it."""
        move, stand_in = torch.nn.Module.to, self
        parallel = torch.nn.parallel.DistributedDataParallel
        init = parallel.__init__

        def to(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], int) and names_cuda(args[0], index=True):
                args = (torch.device("cuda", args[0]), *args[1:])
            return move(module, *args, **kwargs)

        def __init__(
            wrapper: Any,
            module: torch.nn.Module,
            device_ids: Any = None,
            output_device: Any = None,
            *args: Any,
            **kw: Any,
        ) -> None:
            if device_ids or output_device is not None:
                stand_in.used = True
            init(wrapper, module, None, None, *args, **kw)

        self._replace(torch.nn.Module, "to", to)
        self._replace(parallel, "__init__", __init__)

    def _replace_load(self) -> None:
        load = torch.load

        def cpu_load(f: Any, map_location: Any = None, *args: Any, **kwargs: Any) -> Any:
            """Load onto the CPU."""
            if isinstance(map_location, dict):
                map_location = {k: "cpu" if names_cuda(v) else v for k, v in map_location.items()}
            elif map_location is None or names_cuda(map_location):
                if map_location is not None:
                    self.used = True
                map_location = "cpu"
            return load(f, map_location, *args, **kwargs)

        self._replace(torch, "load", cpu_load)
        self._replace(torch.serialization, "load", cpu_load)

    def _replace_generator(self) -> None:
        real, stand_in = torch.Generator, self

        class Meta(type(real)):  # type: ignore[misc]
            def __instancecheck__(cls, instance: object) -> bool:
                return isinstance(instance, real)

            def __call__(cls, device: Any = "cpu") -> torch.Generator:
                if names_cuda(device, index=True):
                    stand_in.used = True
                    device = "cpu"
                return real(device=device)

        self._replace(torch, "Generator", Meta("Generator", (), {"__doc__": real.__doc__}))

    def _replace_default_device(self) -> None:
        # Both torch.set_default_device and `with torch.device(...)` come here, the latter from C++.
        try:
            from torch.utils._device import DeviceContext
        except ImportError:
            return
        init, stand_in = DeviceContext.__init__, self

        def on_cpu(context: Any, device: Any) -> None:
            if names_cuda(device, index=True):
                stand_in.used = True
                device = "cpu"
            init(context, device)

        self._replace(DeviceContext, "__init__", on_cpu)


def names_cuda(device: Any, index: bool = False) -> bool:
    """Return True if a device argument means CUDA.

    Args:
        device: a string, a torch.device, or anything else.
        index: True if a plain integer counts as the index of a CUDA device.
    """
    if isinstance(device, str):
        return device == "cuda" or device.startswith("cuda:")
    if isinstance(device, torch.device):
        return device.type == "cuda"
    return index and isinstance(device, int) and not isinstance(device, bool)


def _itself(tensor: Any, *args: Any, **kwargs: Any) -> Any:
    return tensor


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


class _Block:
    """A context manager that does nothing: torch.cuda.device, torch.cuda.stream."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.idx = 0

    def __enter__(self) -> _Block:
        return self

    def __exit__(self, *exc_info: object) -> None:
        return None


class _Stream(_Block):
    """A stream whose work is done at once."""

    device = torch.device("cpu")
    cuda_stream = 0

    def synchronize(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def wait_stream(self, stream: Any) -> None:
        """Do nothing: there is nothing to wait for."""

    def wait_event(self, event: Any) -> None:
        """Do nothing: there is nothing to wait for."""

    def record_event(self, event: Any = None) -> Any:
        """Record an event, and return it."""
        event = event or _Event()
        event.record(self)
        return event

    def query(self) -> bool:
        """Return True: all work is done."""
        return True


class _Event:
    """An event with the time at which it was recorded."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._at = 0.0

    def record(self, stream: Any = None) -> None:
        """Remember the time."""
        self._at = time.perf_counter()

    def wait(self, stream: Any = None) -> None:
        """Do nothing: there is nothing to wait for."""

    def synchronize(self) -> None:
        """Do nothing: there is nothing to wait for."""

    def query(self) -> bool:
        """Return True: the event has happened."""
        return True

    def elapsed_time(self, end: Any) -> float:
        """Return the milliseconds until `end` was recorded."""
        return 1e3 * float(end._at - self._at)


# Before torch 2.6, torch._dynamo refuses at its import what does not inherit from these.
_bases = sys.modules.get("torch._streambase")
for _base, _own in (("_StreamBase", _Stream), ("_EventBase", _Event)):
    if hasattr(getattr(_bases, _base, None), "register"):
        getattr(_bases, _base).register(_own)


def _properties() -> Any:
    return SimpleNamespace(
        name="cpu", major=0, minor=0, total_memory=1 << 34, multi_processor_count=1, is_integrated=0, warp_size=32
    )


_ASKED_BY_LIBRARIES = frozenset({"is_current_stream_capturing"})
"""Functions that libraries call before each forward on any device: no sign that CUDA is wanted."""
# Only what raises without CUDA: the memory counters, manual_seed and empty_cache work by themselves.
_ANSWERS: dict[str, Callable[[], Any]] = {
    **dict.fromkeys(
        ("init", "set_device", "synchronize", "ipc_collect", "set_stream", "set_rng_state", "reset_peak_memory_stats",
         "reset_max_memory_allocated", "reset_max_memory_cached", "reset_accumulated_memory_stats",
         "set_per_process_memory_fraction", "set_sync_debug_mode"),
        lambda: None,
    ),
    **dict.fromkeys(
        ("current_device", "utilization", "temperature", "power_draw", "clock_rate", "memory_usage",
         "get_sync_debug_mode", "initial_seed"),
        lambda: 0,
    ),
    "get_device_name": lambda: "cpu",
    "get_device_capability": lambda: (0, 0),
    "get_device_properties": _properties,
    "get_rng_state": torch.get_rng_state,
    "mem_get_info": lambda: (1 << 34, 1 << 34),
    "memory_summary": str,
    "memory_snapshot": list,
    "can_device_access_peer": lambda: False,
    "is_current_stream_capturing": lambda: False,
    "current_stream": _Stream,
    "default_stream": _Stream,
    "stream": _Block,
}  # fmt: skip
