"""Hook the leaf tensors that gradient is accumulated into."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from typing import Any

from torch import Tensor

from gradlint.location import Code
from gradlint.recorder.calls.call_chains import code_of
from gradlint.recorder.ledger.backward_passes import BackwardPasses
from gradlint.restore.global_state import without_torch_function
from gradlint.system.undo import Undo
from gradlint.traces.ids import ParameterKey

_HOOKS = ("_backward_hooks", "_post_accumulate_grad_hooks")
"""The attributes of a tensor that hold its hooks."""


class Arrival:
    """A hook for the gradient of a parameter, before it is accumulated."""

    __torch_unserializable__ = True
    """Keeps torch from a warning where user code saves the parameter."""

    def __init__(self, passes: BackwardPasses, key: ParameterKey) -> None:
        self.passes = passes
        self._key = key

    def __call__(self, gradient: Tensor | None) -> None:
        self.passes.arrive(self._key, gradient)


class FirstArrival(Arrival):
    """A hook for the gradient of a parameter, before the hooks of user code may change it."""

    def __call__(self, gradient: Tensor | None) -> None:
        self.passes.arrive_first(self._key, gradient)


class ParameterHooks:
    """The hooks on parameters that report to the backward passes."""

    def __init__(self, parameters: dict[ParameterKey, Tensor], passes: BackwardPasses) -> None:
        self._parameters = parameters
        """Identity → leaf tensor with hooks; filled here."""
        self._passes = passes
        self._unhooked: dict[ParameterKey, list[str]] = {}
        """Identity of a parameter → the tables of hooks that it did not have before."""
        self._preceded: set[ParameterKey] = set()
        """Identities of the parameters with hooks of user code, and one of the recording before them."""

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Hook those of some tensors that are leaves and have no hook yet."""
        for tensor in tensors:
            key = ParameterKey(id(tensor))
            if key in self._parameters or not tensor.is_leaf:
                continue
            self._parameters[key] = tensor
            with without_torch_function(), contextlib.suppress(RuntimeError):  # integers, inference tensors
                if tensor.requires_grad:
                    self._hook(tensor, key)
                    continue
                # A step may unfreeze a parameter, and only what requires grad takes a hook.
                with Undo() as undo:
                    undo.call(tensor.requires_grad_, False)
                    tensor.requires_grad_(True)
                    self._hook(tensor, key)

    def precede(self) -> dict[ParameterKey, tuple[Code, ...]]:
        """Put a hook before those of user code.

        Returns the code of the hooks of user code, for each parameter that had no such hook before.
        """
        found: dict[ParameterKey, tuple[Code, ...]] = {}
        with without_torch_function():
            for key, tensor in self._parameters.items():
                tables = [getattr(tensor, name) or {} for name in _HOOKS]
                if key not in self._preceded and max(map(len, tables)) > 1 and tensor.requires_grad:
                    self._preceded.add(key)
                    hooks = [hook for table in tables for hook in table.values() if not _is_own(hook)]
                    codes = map(code_of, map(_innermost, hooks))
                    found[key] = tuple(Code.of(code) for code in codes if code is not None)
                    earlier = list(tables[0].items())
                    tensor.register_hook(FirstArrival(self._passes, key))  # type: ignore[no-untyped-call]
                    for handle, hook in earlier:  # autograd calls them in the order of insertion
                        del tables[0][handle]
                        tables[0][handle] = hook
        return found

    def remove(self) -> None:
        """Remove all hooks."""
        with without_torch_function():
            for key, tensor in self._parameters.items():
                self._unhook(tensor, key)
        self._parameters.clear()
        self._unhooked.clear()
        self._preceded.clear()

    def _hook(self, tensor: Tensor, key: ParameterKey) -> None:
        tables = {name: getattr(tensor, name, None) for name in _HOOKS}
        self._unhooked[key] = [
            name for name, table in tables.items() if table is None or (table and all(map(_is_own, table.values())))
        ]
        tensor.register_hook(Arrival(self._passes, key))  # type: ignore[no-untyped-call]
        tensor.register_post_accumulate_grad_hook(self._passes.accumulate)  # type: ignore[no-untyped-call]

    def _unhook(self, tensor: Tensor, key: ParameterKey) -> None:
        """Remove the hooks of a tensor, and torch's tables of hooks if it had none before."""
        for name in _HOOKS:
            hooks = getattr(tensor, name, None) or {}
            for handle in [handle for handle, hook in hooks.items() if _passes_of(hook) is self._passes]:
                del hooks[handle]
        for name in self._unhooked.get(key, ()):
            if not getattr(tensor, name, None):
                setattr(tensor, name, None)


def _innermost(hook: Any) -> Any:
    """Return the function behind a hook.

    The hook may be a partial application, or an object that can be called.
    """
    while isinstance(hook, functools.partial):
        hook = hook.func
    return hook if code_of(hook) is not None else type(hook).__call__


def _is_own(hook: Any) -> bool:
    """Return True if a hook of a tensor belongs to a recording."""
    return isinstance(_passes_of(hook), BackwardPasses)


def _passes_of(hook: Any) -> Any:
    """Return what a hook reports to, if it belongs to a recording."""
    return hook.passes if isinstance(hook, Arrival) else getattr(hook, "__self__", None)
