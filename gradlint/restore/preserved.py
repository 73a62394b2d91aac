"""Give the user's objects back as they were: tensors, modules, optimizers, random states and torch's global settings.

Buffers, gradients and the small tensors of an optimizer's state are copied on entry. Parameters, inputs and the rest
are copied only before something writes to them, because copying a large model costs more than running it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from operator import is_
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from gradlint.restore.generators import is_generator, restorer, unpacked
from gradlint.restore.generators import kinds as generator_kinds
from gradlint.restore.global_state import GlobalState, rng_restorers, without_torch_function
from gradlint.restore.mutation import written_tensors
from gradlint.restore.tensors import (
    PLAIN_TYPES,
    Memory,
    StorageBytes,
    TensorState,
    freed_storage,
    inner_tensors,
    storage_of,
)
from gradlint.traces.sites import class_is_project

LARGE_BUFFER = 64 * 2**20
"""Bytes above which a buffer is copied on write, like a parameter (a quantised model keeps its weights as buffers)."""

LARGE_STATE = 2**20
"""Bytes above which a tensor of an optimizer's state is copied on write: only its own step writes to it."""


def _same(left: Collection[Any], right: Collection[Any]) -> bool:
    return len(left) == len(right) and all(map(is_, left, right))


class _Container:
    """The content of a dict, list, set or deque, by identity; put back into the same object."""

    __slots__ = ("container", "items", "keys")

    def __init__(self, container: Any) -> None:
        self.container = container
        mapping = isinstance(container, dict)
        self.keys = list(dict.keys(container)) if mapping else []
        self.items = list(dict.values(container)) if mapping else list(container)

    def changed(self) -> bool:
        container = self.container
        if isinstance(container, dict):
            return not (_same(dict.values(container), self.items) and _same(dict.keys(container), self.keys))
        return not _same(container, self.items)

    def put_back(self) -> None:
        container: Any = self.container
        if not self.changed():
            return
        if isinstance(container, dict):
            # A subclass may override clear() and __setitem__; OrderedDict keeps the order in a list of its own.
            plain: Any = OrderedDict if isinstance(container, OrderedDict) else dict
            plain.clear(container)
            for key, value in zip(self.keys, self.items, strict=True):
                plain.__setitem__(container, key, value)
        else:
            container.clear()
            if isinstance(container, set):
                container.update(self.items)
            else:
                container.extend(self.items)


class _ObjectState:
    """The attributes of an optimizer, a scheduler or a scaler, without its hooks: their owner removes those."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.saved = {name: value for name, value in target.__dict__.items() if "hook" not in name}

    def put_back(self) -> None:
        now = self.target.__dict__
        for name in [name for name in now if name not in self.saved and "hook" not in name]:
            del now[name]
        for name, value in self.saved.items():
            if name not in now or now[name] is not value:
                now[name] = value


_NO_GENERATORS = frozenset(nn.Module().__dict__)
"""Attributes of every module."""
_REGISTRIES = ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set")


class _ModuleState:
    """The registered members of one module, and its training flag."""

    __slots__ = ("attributes", "module", "registries", "training")

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.training = module.training
        # A scripted module keeps its registries in C++, where a forward cannot change them.
        scripted = isinstance(module, torch.jit.ScriptModule)
        self.attributes = dict(module.__dict__)
        self.registries = (
            {}
            if scripted
            else {name: _Container(self.attributes[name]) for name in _REGISTRIES if name in self.attributes}
        )

    def put_back(self) -> None:
        now = self.module.__dict__
        if self._changed(now):
            self._put_back_registries(now)
        if self.module.training is not self.training:
            if "training" in now:
                now["training"] = self.training
            else:
                self.module.training = self.training

    def _changed(self, now: dict[str, Any]) -> bool:
        if now.keys() != self.attributes.keys():
            return True
        return any(now[name] is not saved.container or saved.changed() for name, saved in self.registries.items())

    def _put_back_registries(self, now: dict[str, Any]) -> None:
        registered = {name for registry in self.registries.values() for name in (registry.keys or registry.items)}
        for name, registry in self.registries.items():
            for added in [key for key in now.get(name, ()) if key not in registered]:
                # The attribute was plain before: `self.fc = None` in __init__, `self.fc = nn.Linear(...)` in forward.
                if added in self.attributes and added not in now:
                    now[added] = self.attributes[added]
            now[name] = registry.container
            registry.put_back()
        for name in registered:
            # A plain attribute would hide the registered one of the same name.
            if name in now and name not in self.attributes:
                del now[name]


class Preserved:
    """Puts back at exit, also after an exception, whatever torch can change of the user's objects.

    Covered: the modules' registrations, buffers, parameters, ``.grad``, ``requires_grad`` and modes, one by one;
    optimizers, schedulers and scalers with their states; random states, torch's global settings, warnings filters.

    Not covered: other attributes of modules and objects that the user's own code sets; hooks; ``_version`` counters;
    a lazy parameter that the forward initialised stays initialised.

    Args:
        modules: root modules, or name → root module; the name becomes the prefix of the names in `unrestored`.
        optimizers: optimizers; their parameters are watched even if no module holds them.
        schedulers: schedulers, gradient scalers and other objects with a ``state_dict``.
        extra_tensors: tensors to watch like parameters, for example the inputs.
        generators: random generators; those in attributes of modules, and those that torch calls use, are found.

    Attributes:
        unrestored: names of the objects that could not be put back, known after the exit: parameters written to
            without a `before_write`, and settings or tensors that refused their old value.
    """

    def __init__(
        self,
        modules: Iterable[nn.Module] | Mapping[str, nn.Module],
        optimizers: Iterable[Any] = (),
        schedulers: Iterable[Any] = (),
        extra_tensors: Iterable[Tensor] = (),
        generators: Iterable[Any] = (),
    ) -> None:
        if isinstance(modules, Mapping):
            roots = [(f"{key}.", module) for key, module in modules.items()]
        else:
            listed = list(modules)
            roots = [("" if len(listed) == 1 else f"{index}.", module) for index, module in enumerate(listed)]
        self._roots = roots
        self._objects = [*optimizers, *schedulers]
        self._extra = list(extra_tensors)
        self._held = list(generators)
        self._entered = False
        self._clear()

    def _clear(self) -> None:
        self.unrestored: list[str] = []
        self._storages: dict[int, list[StorageBytes]] = {}
        self._tensors: dict[int, TensorState] = {}
        self._states: dict[int, tuple[Any, str, _ModuleState | _ObjectState | _Container]] = {}
        self._generators: dict[int, tuple[Any, Callable[[], object]]] = {}
        self._kinds = frozenset(generator_kinds())

    def __enter__(self) -> Preserved:
        if self._entered:
            raise RuntimeError("Preserved is entered already; nest a second object")
        self._clear()
        with without_torch_function():
            self._global_state = GlobalState()
            self._rng = rng_restorers()
            with torch.no_grad():
                for prefix, root in self._roots:
                    self._watch_modules(prefix, root)
                for index, target in enumerate(self._objects):
                    self._watch_object(f"{type(target).__name__} {index}", target)
                self._watch_generators(self._held)
                for index, tensor in enumerate(self._extra):
                    self._watch_tensor(f"tensor {index}", tensor, copy=False)
        self._entered = True
        return self

    def before_write(self, tensor: Tensor) -> None:
        """Save the tensor's storage before something writes to it or exports it.

        Exports are numpy arrays, DLPack and pointers. The first announcement copies the watched storage behind the
        tensor or view; later ones cost one look-up. Never raises.
        """
        if not self._entered:
            return
        if type(tensor) in PLAIN_TYPES:
            memory = storage_of(tensor)
            if memory is not None and memory[1] not in self._storages:
                return
        with suppress(Exception), without_torch_function():
            memory = storage_of(tensor)
            if memory is None:
                for part in inner_tensors(tensor):
                    self.before_write(part)
                return
            for watched in self._storages.get(memory[1], ()):
                if watched.saved is None:
                    with torch.no_grad():
                        watched.save()

    def before_call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Announce what a torch function is about to change: tensors and its generator."""
        if kwargs and kwargs.get("generator") is not None and self._entered:
            self._watch_generators([kwargs["generator"]])
        for tensor in written_tensors(function, args, kwargs):
            self.before_write(tensor)

    def save_all(self) -> None:
        """Save every watched storage, for code whose writes cannot be announced (a compiled step)."""
        with without_torch_function(), torch.no_grad():
            for at_one_address in self._storages.values():
                for watched in at_one_address:
                    watched.save()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._entered:
            return
        interrupt: BaseException | None = None
        unrestored: dict[str, None] = dict.fromkeys(self.unrestored)
        with without_torch_function():
            unrestored.update(dict.fromkeys(self._global_state.put_back()))
            with torch.no_grad():
                unrestored.update({state.name: None for state in self._tensors.values() if state.is_unsaved()})
                for name, put_back in self._put_backs():
                    try:
                        put_back()
                    except Exception:
                        unrestored[name] = None
                    except BaseException as raised:
                        # A second Ctrl-C must not leave the model half restored.
                        interrupt = raised
                        put_back()
        self._entered = False  # not before: whoever was interrupted may come again
        self._clear()
        self.unrestored = list(unrestored)
        if interrupt is not None:
            raise interrupt

    def _put_backs(self) -> Iterator[tuple[str, Callable[[], object]]]:
        for _, name, saved in self._states.values():
            yield name, saved.put_back
        for tensor in self._tensors.values():
            yield tensor.name, tensor.put_back
        for tensor in self._tensors.values():
            for part in tensor.bytes:
                yield tensor.name, part.put_back
        for _, restore in self._generators.values():
            yield "generator", restore
        for put_back in self._rng:
            yield "random state", put_back

    def _watch_modules(self, prefix: str, root: nn.Module) -> None:
        pending = [(prefix, root)]
        while pending:
            prefix, module = pending.pop()
            if id(module) in self._states:
                continue
            self._states[id(module)] = (module, prefix[:-1] or type(module).__name__, _ModuleState(module))
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    self._watch_tensor(prefix + name, parameter, copy=False)
            for name, buffer in module._buffers.items():
                if isinstance(buffer, Tensor):
                    self._watch_tensor(prefix + name, buffer, copy=not _larger(buffer, LARGE_BUFFER))
            # isinstance would ask a slow metaclass for every attribute
            if not self._kinds.isdisjoint(map(type, module.__dict__.values())):
                self._watch_generators(module.__dict__.values())
            if class_is_project(type(module)):
                plain = [value for name, value in module.__dict__.items() if name not in _NO_GENERATORS]
                self._watch_generators(unpacked(plain))
            children = [(f"{prefix}{name}.", child) for name, child in module._modules.items() if child is not None]
            pending.extend(reversed(children))

    def _watch_generators(self, things: Iterable[Any]) -> None:
        """Watch the generators among some objects."""
        for thing in things:
            if id(thing) not in self._generators and is_generator(thing):
                self._generators[id(thing)] = (thing, restorer(thing))

    def _watch_tensor(self, name: str, tensor: Tensor, *, copy: bool) -> None:
        state = self._tensors.get(id(tensor))
        try:
            if state is None:
                state = self._tensors[id(tensor)] = TensorState(name, tensor, self._watch_storages)
            if copy or tensor.layout is not torch.strided:
                for part in state.bytes:
                    part.save()
        except Exception:
            # A tensor type that supports no introspection must not keep the model from being checked.
            self.unrestored.append(name)
            return
        if state.grad is not None and id(state.grad) not in self._tensors:
            # A backward accumulates into it without any call that could be announced.
            self._watch_tensor(f"{name}.grad", state.grad, copy=True)

    def _watch_storages(self, tensor: Tensor, memory: Memory) -> list[StorageBytes]:
        if memory is None:
            if (freed := freed_storage(tensor)) is not None:
                empty = StorageBytes(freed)
                empty.save()
                return [empty]
            inner = inner_tensors(tensor)
            return [part for each in inner for part in self._watch_storages(each, storage_of(each))]
        storage, pointer = memory
        at_one_address = self._storages.setdefault(pointer, [])
        for watched in at_one_address:
            if watched.nbytes == storage.nbytes():
                return [watched]
        # An array shared with numpy gives two storages of different sizes at one address.
        at_one_address.append(StorageBytes(storage))
        return at_one_address[-1:]

    def _watch_object(self, name: str, target: Any) -> None:
        if id(target) in self._states or not hasattr(target, "__dict__"):
            return
        state = _ObjectState(target)
        self._states[id(target)] = (target, name, state)
        for group in getattr(target, "param_groups", ()):
            for index, parameter in enumerate(group["params"]):
                self._watch_tensor(f"parameter {index} of {name}", parameter, copy=False)
        self._watch_values(name, state.saved.items())

    def _watch_values(self, name: str, values: Iterable[tuple[object, Any]]) -> None:
        for key, value in values:
            part = f"{name}.{key}" if isinstance(key, str) else name
            if isinstance(value, Tensor):
                self._watch_tensor(part, value, copy=id(value) not in self._tensors and not _larger(value, LARGE_STATE))
            elif isinstance(value, dict | list | set | deque):
                if id(value) not in self._states:
                    self._states[id(value)] = (value, part, _Container(value))
                    self._watch_values(part, value.items() if isinstance(value, dict) else enumerate(value))
            elif isinstance(value, tuple):
                self._watch_values(part, enumerate(value))
            elif hasattr(type(value), "state_dict") and not isinstance(value, nn.Module):
                self._watch_object(part, value)


def _larger(tensor: Tensor, limit: int) -> bool:
    memory = storage_of(tensor)
    return memory is not None and memory[0].nbytes() > limit
