"""The TorchFunctionMode that writes down every torch call.

This is the hot path: it runs once per torch call of the user's model, so it appends tuples and resolves nothing.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from gradlint.record import tables
from gradlint.sites import GRADLINT, NO_SITE, Sites, is_standard_library
from gradlint.traces import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_ALIAS,
    KIND_EXTRACT,
    KIND_OPAQUE,
    KIND_PLAIN,
    KIND_WRITE,
    TENSOR,
    Event,
    Op,
    Value,
)

_TORCH = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep

# What a frame is to the walk up the stack.
_USER, _SKIP, _CALL, _FUNCTION, _BASE, _DECORATOR, _EXIT, _PLUMBING = range(8)


BASE_FRAME = "gradlint_runs_user_code"
"""Name of the functions of gradlint below which the user's frames begin."""


def _code_of(function: Any) -> CodeType | None:
    return getattr(getattr(function, "__func__", function), "__code__", None)


_FUNCTION_APPLY = _code_of(torch.autograd.Function.apply)
_MODULE_CALL = _code_of(getattr(torch.nn.Module, "_call_impl", None))


_PLAIN = frozenset((int, float, str, bool, complex, slice, type(None), type(Ellipsis)))
_PLAIN |= {torch.dtype, torch.device, torch.layout, torch.memory_format}
"""Types of arguments that are kept as they are."""


class _Known:
    """What the recorder remembers of one live tensor object."""

    __slots__ = ("requires_grad", "storage", "value", "weak")

    def __init__(self, value: int, storage: int, requires_grad: bool, weak: Any) -> None:
        self.value = value
        self.storage = storage
        self.requires_grad = requires_grad
        self.weak = weak


class _Apply(NamedTuple):
    """One run of a custom autograd.Function."""

    cls: Any
    inputs: tuple[int, ...]
    site: int
    region: int
    marker: tuple[int, int]
    """(id of the frame, id of its arguments): the same while the call lasts."""


class Chain(NamedTuple):
    """The outcome of a walk up the stack."""

    site: int
    apply: FrameType | None
    """The frame of a custom Function's apply, if the call came from inside one."""
    decorated: CodeType | None
    library: CodeType | None
    """The innermost frame of torch or the standard library below the first user frame."""
    in_exit: bool
    tag: int
    """The custom Function run that the enclosing module call is inside of; -1 for none."""


class Recorder(TorchFunctionMode):
    """Records the torch calls of its own thread while it is entered.

    Ops inside torch's Python functions (``F.multi_head_attention_forward``) are not seen one by one, nor is what runs
    inside scripted modules, in C++ or in other threads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites = Sites()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.events: list[Event] = []
        self.owners: dict[int, int] = {}
        """Value → key of the watched tensor (a parameter) whose content it is."""
        self.region = GRAD_ON
        self.stack: list[tuple[int, int, int, int]] = []
        """(number of the module call, id of its ``_call_impl`` frame, site of the call, custom Function run)."""
        self.tags: dict[int, int] = {}
        """Op → number of the custom Function run it is inside of."""
        self.applies: list[_Apply] = []
        self.nodes: dict[int, int] = {}
        """Identity of a custom Function's node of autograd → the op that stands for that run of it."""
        self.unseen: list[tuple[str, int]] = []
        self.before_call: Callable[[Any, tuple[Any, ...], dict[str, Any]], None] | None = None
        """Told of every call before it runs, recorded or not."""
        self.rewrite: Callable[..., tuple[Any, tuple[Any, ...], dict[str, Any]] | None] | None = None
        """Gives the call to make instead, for the functions in `rewritten` and calls with one of `keywords`."""
        self.rewritten: frozenset[Any] = frozenset()
        self.keywords: frozenset[str] = frozenset()
        self.thread = threading.get_ident()
        self._known: dict[int, _Known] = {}
        self._keys: dict[int, int] = {}
        """Identity of a weak reference → identity of its tensor."""
        self._pinned: set[int] = set()
        """Identities of the weak references of wrapped tensors, whose memory outlives them."""
        self._storages: dict[int, int] = {}
        self._writes: dict[int, tuple[int, int]] = {}
        self._exports: list[tuple[int, int, int, Any]] = []
        self._watched: dict[int, Tensor] = {}
        self._kinds: dict[int, tuple[int, CodeType]] = {}
        self._table = dict(tables.TABLE)
        self._forget = self._forgetting()
        self._last_off = GRAD_ON
        self._seen_unseen: set[tuple[str, int]] = set()
        self._watched_storages: dict[int, int] = {}
        self._all_storages: dict[int, int] = {}
        self.keep: list[Any] = []
        """Objects kept alive until the recording ends, so that their identity stays theirs."""
        self.running = False
        """Whether the forward or the loss is being recorded, rather than the build."""
        self.building: list[int] = []
        """Identities of the optimizers whose constructor is running."""
        self.inference: list[int] = []
        """The regions that the inference_mode contexts now open began in."""
        self.through = -1
        """Number of the module whose ``requires_grad_`` is running."""
        self.loading = -1
        """Number of the module whose ``load_state_dict`` is running."""
        self.paused = 0
        """Above zero: calls pass through unrecorded."""

    # -- the mode -----------------------------------------------------------------------------------------------

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call and write it down."""
        kind = self._table.get(func)
        if kind is None:
            kind = self._table[func] = tables.classify(func)
        if kind == tables.PASS:
            return func(*args, **kwargs) if kwargs else func(*args)
        if self.rewrite is not None and (func in self.rewritten or (kwargs and not self.keywords.isdisjoint(kwargs))):
            changed = self.rewrite(func, args, kwargs)
            if changed is not None:
                func, args, kwargs = changed
        if self.paused:
            if self.before_call is not None:
                self.before_call(func, args, kwargs or {})
            return func(*args, **kwargs) if kwargs else func(*args)
        if kind == tables.RECORD or kind == tables.WRITE:
            return self._op(func, args, kwargs or None, kind)
        result = func(*args, **kwargs) if kwargs else func(*args)
        if kind == tables.SET_GRAD:
            self._grad_mode(bool(args[0]))
        elif kind == tables.REQUIRES_GRAD:
            self._requires_grad(args, kwargs, func)
        elif kind == tables.BACKWARD:
            self.event("backward", {})
        return result

    def _op(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any] | None, kind: int) -> Any:
        inputs: list[Tensor] = []
        stripped: list[Any] = []
        for argument in args:
            given = type(argument)
            if given is Tensor or given is Parameter:
                inputs.append(argument)
                stripped.append(TENSOR)
            elif given in _PLAIN:
                stripped.append(argument)
            else:
                stripped.append(self._strip(argument, inputs))
        named = {k: self._strip(v, inputs) for k, v in kwargs.items()} if kwargs else None
        targets: list[Tensor] = []
        if kind == tables.WRITE:
            first = args[0] if args else next(iter(kwargs.values())) if kwargs else None
            targets = [first] if isinstance(first, Tensor) else list(_tensors(first))
        if kwargs and kwargs.get("out") is not None:
            targets += _tensors(kwargs["out"])
        chain = self.walk(sys._getframe(2))
        site = chain.site
        tag = self._applied(chain.apply, chain) if chain.apply is not None else chain.tag
        if tag >= 0:
            region = IN_FUNCTION
        elif torch.is_grad_enabled():
            region = GRAD_ON
        else:
            region = self.region if self.region != GRAD_ON else self._unseen_switch(chain)
        read = tuple([self.read(t, tag, site, region) for t in inputs])  # before the call, which may write to them
        if self.before_call is not None:
            self.before_call(func, args, kwargs or {})

        result = func(*args, **kwargs) if kwargs else func(*args)

        number = len(self.ops)
        outputs: list[Tensor] = []
        if type(result) is Tensor or isinstance(result, Tensor):
            outputs.append(result)
        elif result is not None and not isinstance(result, (int, float, bool, str)):
            outputs = _tensors(result)
        made: list[int] = []
        op_kind = KIND_PLAIN
        if targets:
            op_kind = KIND_WRITE
            ids = {id(t) for t in targets}
            made = [self._written(t, number, func, read, inputs) for t in targets]
            outputs = [t for t in outputs if id(t) not in ids]
        if outputs:
            for t in outputs:
                if not any(t is i for i in inputs):
                    made.append(self.add(t, number))
                elif _in_place(args, kwargs):
                    op_kind = KIND_WRITE
                    made.append(self._written(t, number, func, read, inputs))
                else:
                    made.append(self._known[id(t)].value)  # ``x.to(x.device)`` gives x back
        elif not targets:
            if not inputs:
                return result
            op_kind = KIND_EXTRACT
            self._export(func, result, inputs, read)
        if tag >= 0:
            self.tags[number] = tag
        self.ops.append(
            tuple.__new__(
                Op,
                (
                    func,
                    site,
                    self.stack[-1][0] if self.stack else -1,
                    region,
                    read,
                    tuple(made),
                    tuple(stripped),
                    named,
                    op_kind,
                ),
            )
        )
        return result

    def _strip(self, argument: Any, found: list[Tensor]) -> Any:
        """The argument with its tensors (collected into `found`) replaced by a placeholder."""
        kind = type(argument)
        if kind in _PLAIN:
            return argument
        if isinstance(argument, Tensor):
            found.append(argument)
            return TENSOR
        if isinstance(argument, (list, tuple)):
            if len(argument) > 64 and not isinstance(argument[0], (Tensor, list, tuple)):
                return f"<{len(argument)} items>"
            stripped = [self._strip(a, found) for a in argument]
            return tuple(stripped) if isinstance(argument, tuple) else stripped
        if isinstance(argument, dict):
            return {k: self._strip(v, found) for k, v in argument.items()}
        return f"<{kind.__name__}>"  # anything else could keep the user's objects alive

    # -- values -------------------------------------------------------------------------------------------------

    def add(self, tensor: Tensor, producer: int) -> int:
        """Give a tensor object that was not known (or is made anew) a value; returns the value's number."""
        try:
            storage = tensor.untyped_storage()._cdata
        except (RuntimeError, NotImplementedError, AttributeError, ValueError):
            storage = _storage(tensor)
        value = len(self.values)
        requires_grad = tensor.requires_grad
        needs = requires_grad
        weak = weakref.ref(tensor, self._forget)
        if _is_wrapped is not None and _is_wrapped(tensor):
            needs = requires_grad or _unwrapped(tensor).requires_grad
            # torch.func gives back what is inside after the wrapper died: keep the memory's identity from being reused
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self.keep.append(_weak_storage(_unwrapped(tensor).untyped_storage()))
                self._pinned.add(id(weak))
        self.values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), tensor.dtype)))
        key = id(tensor)
        self._known[key] = _Known(value, storage, requires_grad, weak)
        self._keys[id(weak)] = key
        if storage:
            self._storages[storage] = value
            self._all_storages[storage] = value
        return value

    def _forgetting(self) -> Callable[[Any], None]:
        """What weak references call when their tensor dies: its identity and its memory may be reused from then on."""
        keys, known, storages, pinned = self._keys, self._known, self._storages, self._pinned

        def forget(weak: Any) -> None:
            key = keys.pop(id(weak), None)
            entry = known.get(key)  # type: ignore[arg-type]
            if entry is not None and entry.weak is weak:
                del known[key]  # type: ignore[arg-type]
                if id(weak) in pinned:
                    pinned.discard(id(weak))
                elif storages.get(entry.storage) == entry.value:
                    del storages[entry.storage]

        return forget

    def _renew(self, tensor: Tensor, entry: _Known, producer: int) -> int:
        """A new value for a known tensor object whose content or autograd state has changed."""
        value = len(self.values)
        entry.requires_grad = tensor.requires_grad
        needs = entry.requires_grad or _unwrapped(tensor).requires_grad
        self.values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), tensor.dtype)))
        key = id(tensor)
        if key in self._watched:
            self.owners[value] = key
        if entry.storage:
            self._storages[entry.storage] = value
            self._all_storages[entry.storage] = value
        entry.value = value
        return value

    def _written(self, tensor: Tensor, op: int, func: Any, read: tuple[int, ...], inputs: list[Tensor]) -> int:
        entry = self._known.get(id(tensor))
        if entry is None:
            value = self.add(tensor, op)
            entry = self._known[id(tensor)]
        else:
            if getattr(func, "__name__", "") in ("__set__", "set_", "resize_"):
                entry.storage = _storage(tensor)
            value = self._renew(tensor, entry, op)
        if id(tensor) in self._watched and getattr(func, "__name__", "") == "detach_":
            if read and self.values[read[0]].requires_grad:  # of a leaf, it only takes the flag away
                self.event("freeze", {"parameter": id(tensor), "method": True, "through": self.through})
            return value
        self._writes[entry.storage] = (op, value)
        if id(tensor) in self._watched:
            self._parameter_written(tensor, func, read, inputs)
        elif self._watched and entry.storage in self._watched_storages:
            owner = self._watched_storages[entry.storage]
            self._parameter_written(self._watched[owner], func, read, inputs)
        return value

    def _parameter_written(self, tensor: Tensor, func: Any, read: tuple[int, ...], inputs: list[Tensor]) -> None:
        name = getattr(func, "__name__", "") or ""
        if name == "__set__":
            name = "data"
        sources = tuple(v for v, t in zip(read, inputs, strict=False) if t is not tensor)
        self.event("write", {"parameter": id(tensor), "name": name, "sources": sources, "loading": self.loading})

    def read(self, tensor: Tensor, tag: int = -1, site: int = NO_SITE, region: int = GRAD_ON) -> int:
        """The value number of a tensor that is about to be used."""
        entry = self._known.get(id(tensor))
        if entry is None:
            return self._unknown(tensor, site, region)
        if self._writes:
            write = self._writes.get(entry.storage)
            if write is not None and write[1] != entry.value and write[0] > self.values[entry.value].producer:
                old = entry.value
                value = self._renew(tensor, entry, len(self.ops))
                self._writes[entry.storage] = (len(self.ops), value)
                self._synthetic("alias", KIND_ALIAS, (old, write[1]), value, site, region)
        if self.tags:
            inner = self.tags.get(self.values[entry.value].producer, -1)
            if inner >= 0 and inner != tag:
                call = self.applies[inner]
                old = entry.value
                value = self._renew(tensor, entry, len(self.ops))
                self.nodes[id(tensor.grad_fn)] = len(self.ops)
                if tag >= 0:
                    self.tags[len(self.ops)] = tag
                self._synthetic(call.cls, KIND_OPAQUE, (*call.inputs, old), value, call.site, call.region)
                return value
        if tensor.requires_grad != entry.requires_grad:
            # Its autograd state changed by no call that was seen (an output wrapped by C++, a thread's backward).
            old = entry.value
            if tensor.grad_fn is not None:
                value = self._renew(tensor, entry, len(self.ops))
                self._synthetic("alias", KIND_ALIAS, (old, *self._leaves(tensor)), value, site, region)
            else:
                entry.requires_grad = tensor.requires_grad
                self.values[old] = self.values[old]._replace(requires_grad=entry.requires_grad)
        return entry.value

    def _synthetic(self, func: Any, kind: int, inputs: tuple[int, ...], output: int, site: int, region: int) -> None:
        call = self.stack[-1][0] if self.stack else -1
        self.ops.append(Op(func, site, call, region, inputs, (output,), (), None, kind))

    def _unknown(self, tensor: Tensor, site: int, region: int) -> int:
        """A tensor that no recorded op made: a leaf, a wrapper, or the output of something that was not seen."""
        plain = _unwrapped(tensor)
        sources: list[int] = []
        if plain is not tensor and id(plain) in self._known:
            sources.append(self.read(plain, -1, site, region))
        else:
            storage = _storage(plain)
            if storage in self._storages:
                sources.append(self._storages[storage])
            elif not self.running and (copied := self._copied(storage)) is not None:
                sources.append(copied)  # a deepcopy: Parameter(data.clone())
            elif self._exports and storage:
                address = _address(plain)
                sources += [v for start, end, v, _ in self._exports if start <= address < end]
        if tensor.grad_fn is not None:
            leaves = self._leaves(tensor)
            custom = getattr(type(tensor.grad_fn), "_forward_cls", None)
            inner = {self.tags.get(self.values[v].producer, -1) for v in sources} - {-1}
            if inner:
                call = self.applies[inner.pop()]
                value = self.add(tensor, len(self.ops))
                self.nodes[id(tensor.grad_fn)] = len(self.ops)
                self._synthetic(call.cls, KIND_OPAQUE, (*call.inputs, *sources), value, call.site, call.region)
                return value
            if not sources:
                value = self.add(tensor, len(self.ops))
                if custom is not None:
                    self.nodes[id(tensor.grad_fn)] = len(self.ops)
                self._synthetic(custom or "unseen", KIND_OPAQUE, leaves, value, site, region)
                if custom is None and plain is tensor:
                    self.note_unseen(f"an operation that no recorded call made ({tensor.grad_fn.name()})", site)
                return value
            sources += [v for v in leaves if v not in sources]
        if sources:
            value = self.add(tensor, len(self.ops))
            self._synthetic("alias", KIND_ALIAS, tuple(sources), value, site, region)
            return value
        value = self.add(tensor, -1)
        if id(tensor) in self._watched:
            self.owners[value] = id(tensor)
        return value

    def _copied(self, storage: int) -> int | None:
        """The value once held by a storage that was filled from other tensors.

        To be asked of parameters just made, and while the set-up is built: later, memory is reused too often.
        """
        value = self._all_storages.get(storage)
        if value is None:
            return None
        producer = self.values[value].producer
        return value if 0 <= producer < len(self.ops) and self.ops[producer].inputs else None

    def _leaves(self, tensor: Tensor) -> tuple[int, ...]:
        """The values of the leaf tensors that autograd reaches from a tensor."""
        found: dict[int, None] = {}
        for leaf in autograd_leaves([tensor]):
            entry = self._known.get(id(leaf))
            found[entry.value if entry is not None else self.add(leaf, -1)] = None
        return tuple(found)

    def watch(self, tensor: Tensor, copied: Tensor | None = None) -> bool:
        """Follow a parameter's identity: its values get an owner, its writes become events. True when it is new.

        `copied` is what it was made from, where that is known and no call of torch's tells.
        """
        key = id(tensor)
        if key in self._watched:
            return False
        self._watched[key] = tensor
        storage = _storage(tensor)
        if storage:
            self._watched_storages.setdefault(storage, key)
        entry = self._known.get(key)
        if entry is None:
            sources = (self._storages[storage],) if storage in self._storages else ()
            if copied is not None:
                sources = (self.read(copied),)
            elif not sources and (made := self._copied(storage)) is not None:
                sources = (made,)  # Parameter(a + b): the sum has died, its memory is the parameter's
            value = self.add(tensor, len(self.ops) if sources else -1)
            if sources:
                site = NO_SITE if copied is None else self.walk(sys._getframe(1)).site
                name = "alias" if copied is None else "deepcopy"
                self._synthetic(name, KIND_ALIAS, sources, value, site, self.region)
            self.owners[value] = key
        else:
            self.owners[entry.value] = key
        return True

    def rebase(self, tensors: Iterable[Tensor]) -> dict[int, int]:
        """Give parameters a fresh value without a producer: what they hold when the forward begins.

        Returns the value that each had before, by identity.
        """
        made = self._all_storages
        before: dict[int, int] = {}
        for tensor in tensors:
            storage = _storage(tensor)
            if id(tensor) not in self._watched and id(tensor) not in self._known and storage in made:
                self._storages.setdefault(storage, made[storage])  # a deepcopy: Parameter(data.clone())
            self.watch(tensor)
            before[id(tensor)] = self.read(tensor)
            entry = self._known[id(tensor)]
            entry.storage = storage
            value = self._renew(tensor, entry, -1)
            if storage:
                self._watched_storages[storage] = id(tensor)
                self._storages[storage] = value
                self._writes.pop(storage, None)
        return before

    @property
    def watched(self) -> Mapping[int, Tensor]:
        """The parameters followed, by identity."""
        return self._watched

    @property
    def active(self) -> bool:
        """Whether calls of this thread are being written down now."""
        return not self.paused and threading.get_ident() == self.thread

    def opaque(
        self,
        name: str,
        given: list[Tensor],
        inside: list[Tensor],
        output: Any,
        site: int,
        tag: int,
        kind: int = KIND_OPAQUE,
    ) -> None:
        """Write down something that ran unseen, with the tensors it was given and those it holds."""
        region = GRAD_ON if torch.is_grad_enabled() else self.region
        if tag >= 0:
            region = IN_FUNCTION
        known = {id(t) for t in given}
        read = tuple(self.read(t, tag, site, region) for t in [*given, *inside])
        made = [self.add(t, len(self.ops)) for t in _tensors(output) if id(t) not in known]
        if made:
            if tag >= 0:
                self.tags[len(self.ops)] = tag
            call = self.stack[-1][0] if self.stack else -1
            self.ops.append(Op(name, site, call, region, read, tuple(made), (), None, kind))

    # -- what else happens --------------------------------------------------------------------------------------

    def event(self, kind: str, data: Mapping[str, Any], site: int | None = None) -> Event:
        """Write down something that is no op, at the user frame that caused it."""
        if site is None:
            site = self.walk(sys._getframe(1)).site
        event = Event(kind, len(self.events), len(self.ops), site, self.region, data)
        self.events.append(event)
        return event

    def note_unseen(self, what: str, site: int) -> None:
        """Remember that something could not be recorded (once per place)."""
        if (what, site) not in self._seen_unseen:
            self._seen_unseen.add((what, site))
            self.unseen.append((what, site))

    def _requires_grad(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None, func: Any) -> None:
        tensor = args[0]
        method = func is not Tensor.requires_grad.__set__  # type: ignore[attr-defined]
        wanted = args[1] if len(args) > 1 else (kwargs or {}).get("requires_grad", True)
        entry = self._known.get(id(tensor))
        if entry is not None and tensor.requires_grad != entry.requires_grad:
            old = entry.value
            value = self._renew(tensor, entry, -1 if id(tensor) in self._watched else len(self.ops))
            if id(tensor) not in self._watched:
                site = self.walk(sys._getframe(1)).site
                self._synthetic("requires_grad_", KIND_PLAIN, (old,), value, site, self.region)
        if tensor.is_leaf:
            self.event(
                "thaw" if wanted else "freeze",
                {"parameter": id(tensor), "method": method, "through": self.through},
            )
            self.keep.append(tensor)

    def _grad_mode(self, enabled: bool) -> None:
        chain = self.walk(sys._getframe(1))
        if chain.apply is not None or chain.tag >= 0:
            return
        if enabled:
            self.region = GRAD_ON
        elif self.region == GRAD_ON:
            if chain.in_exit and self._last_off != GRAD_ON:
                self.region = self._last_off  # an enable_grad inside a no_grad ended
            else:
                self.switch_off("no_grad", chain)

    def switch_off(self, how: str, chain: Chain) -> int:
        """Grad mode went off: begin a region; returns its event's number."""
        data = {"how": how, "decorated": chain.decorated, "library": chain.library}
        event = Event("grad_off", len(self.events), len(self.ops), chain.site, self.region, data)
        self.events.append(event)
        self.region = self._last_off = event.number
        return event.number

    def _unseen_switch(self, chain: Chain) -> int:
        how = "inference_mode" if torch.is_inference_mode_enabled() else "unknown"
        number = self.switch_off(how, chain)
        self.region = GRAD_ON  # whatever ended it will not be seen either
        return number

    def _export(self, func: Any, result: Any, inputs: list[Tensor], read: tuple[int, ...]) -> None:
        if not _exports(func):
            return
        tensor = inputs[0]
        address = _address(tensor)
        if address:
            size = int(tensor.untyped_storage().nbytes())
            weak = weakref.ref(
                tensor, lambda w: self._exports.__setitem__(slice(None), [e for e in self._exports if e[3] is not w])
            )
            start = address - int(tensor.storage_offset()) * tensor.element_size()
            self._exports.append((start, address + size, read[0], weak))

    def _applied(self, frame: FrameType, chain: Chain) -> int:
        """The number of the custom Function run that a frame of ``Function.apply`` belongs to."""
        local = frame.f_locals
        args = local.get("args", ())
        marker = (id(frame), hash(tuple(id(a) for a in args)))
        if self.applies and self.applies[-1].marker == marker:
            return len(self.applies) - 1
        for number in range(len(self.applies) - 1, max(-1, len(self.applies) - 8), -1):
            if self.applies[number].marker == marker and self.tags.get(len(self.ops) - 1, -1) >= number:
                return number
        outer = self.walk(frame.f_back) if frame.f_back is not None else chain
        outer_tag = -1
        region = self.region
        if outer.apply is not None:
            outer_tag = self._applied(outer.apply, outer)
            region = IN_FUNCTION
        own = [a for a in args if isinstance(a, Tensor)]  # in the order of its node's edges
        tensors = own + _tensors(([a for a in args if not isinstance(a, Tensor)], local.get("kwargs", {})))
        inputs = tuple(self.read(t, outer_tag, outer.site, region) for t in tensors)
        self.applies.append(_Apply(local.get("cls"), inputs, outer.site, region, marker))
        return len(self.applies) - 1

    # -- call chains --------------------------------------------------------------------------------------------

    def walk(self, frame: FrameType | None) -> Chain:
        """The user's call chain from a frame upwards, cut short at the nearest recorded module call."""
        kinds = self._kinds
        stack = self.stack
        enclosing = stack[-1][1] if stack else 0
        found: list[tuple[CodeType, int]] = []
        above = NO_SITE
        tag = -1
        apply = decorated = library = None
        in_exit = False
        while frame is not None:
            code = frame.f_code
            entry = kinds.get(id(code))
            kind = entry[0] if entry is not None else self._kind_of(code)
            if kind == _USER:
                found.append((code, frame.f_lasti))
            elif kind == _SKIP:
                if library is None and not found:
                    library = code
            elif kind == _CALL:
                if id(frame) == enclosing:
                    _, _, above, tag = stack[-1]
                    break
            elif kind == _FUNCTION:
                if apply is None:
                    apply = frame
            elif kind == _BASE:
                break
            elif kind == _DECORATOR:
                if not found and decorated is None:
                    decorated = _code_of(_undecorated(frame.f_locals))
            elif kind == _EXIT:
                in_exit = in_exit or not found
            frame = frame.f_back
        site = above
        for code, instruction in reversed(found):
            site = self.sites.intern(code, instruction, site)
        return tuple.__new__(Chain, (site, apply, decorated, library, in_exit, tag))

    def _kind_of(self, code: CodeType) -> int:
        name = code.co_filename
        kind = _USER
        if code is _FUNCTION_APPLY:
            kind = _FUNCTION
        elif code is _MODULE_CALL:
            kind = _CALL
        elif name.startswith(GRADLINT):
            kind = _BASE if code.co_name == BASE_FRAME else _PLUMBING
        elif name.startswith(_TORCH):
            kind = _SKIP
            if code.co_name in ("decorate_context", "generator_context"):
                kind = _DECORATOR
            elif name.endswith(("grad_mode.py", "_contextlib.py", "_decorators.py")):
                kind = _EXIT if code.co_name == "__exit__" else _PLUMBING
            elif name.endswith(("overrides.py", "nn" + os.sep + "modules" + os.sep + "module.py")):
                kind = _PLUMBING
        elif is_standard_library(name):
            kind = _PLUMBING
        self._kinds[id(code)] = (kind, code)
        return kind

    def reset_links(self) -> None:
        """Forget every tensor: the recording is over."""
        self._known.clear()
        self._storages.clear()
        self._writes.clear()
        self._exports.clear()
        self._keys.clear()
        self.keep.clear()


def autograd_leaves(roots: Iterable[Tensor]) -> list[Tensor]:
    """The leaf tensors that a walk of grad_fn reaches from the roots."""
    pending = [t.grad_fn for t in roots if t.grad_fn is not None]
    found = [t for t in roots if t.grad_fn is None and t.requires_grad]
    seen = set(pending)
    while pending:
        node = pending.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.append(variable)
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return found


def _in_place(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether a function that gave its argument back was asked to work in place (``F.relu(x, inplace=True)``)."""
    return bool(kwargs and kwargs.get("inplace")) or any(a is True for a in args)


_EXPORTS = frozenset(("numpy", "__array__", "__array_wrap__", "__dlpack__", "__cuda_array_interface__"))


def _exports(func: Any) -> bool:
    return getattr(func, "__name__", "") in _EXPORTS


def _undecorated(local: Mapping[str, Any]) -> Any:
    function: Any = local.get("func")
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _tensors(thing: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, (list, tuple)):
        return [t for part in thing for t in _tensors(part)]
    if isinstance(thing, dict):
        return [t for part in thing.values() for t in _tensors(part)]
    return []


_weak_storage: Any = StorageWeakRef
_functorch = getattr(torch._C, "_functorch", None)
_is_wrapped = getattr(_functorch, "is_functorch_wrapped_tensor", None)
_unwrap_once = getattr(_functorch, "get_unwrapped", None)


def _unwrapped(tensor: Tensor) -> Tensor:
    """The plain tensor inside the wrappers of torch.func's transforms; the tensor itself outside of them."""
    if _is_wrapped is None or _unwrap_once is None:
        return tensor
    while _is_wrapped(tensor):
        tensor = _unwrap_once(tensor)
    return tensor


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape; empty for a lazy parameter that has none yet."""
    try:
        return tensor.shape
    except (RuntimeError, ValueError):
        return ()


def _storage(tensor: Tensor) -> int:
    """An identity of the memory behind a tensor; 0 where it has none to speak of."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):  # ValueError: a lazy parameter
        pass
    plain = _unwrapped(tensor)
    if plain is not tensor:
        return _storage(plain)
    return 0


def _address(tensor: Tensor) -> int:
    try:
        return int(tensor.data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0
