"""Which value a tensor object holds, by its identity, its memory and its place in autograd's graph."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlint.recorder.calls.exported_memory import ExportedMemory
from gradlint.recorder.calls.tape import Tape
from gradlint.recorder.facts.autograd import leaves
from gradlint.traces.events import Freeze, ParameterWrite
from gradlint.traces.ids import NO_MODULE, NO_SITE, EventIndex, ParameterKey, SiteId, ValueId
from gradlint.traces.trace import GRAD_ON, KIND_ALIAS, KIND_OPAQUE, Value


class TrackedTensor(weakref.ref):  # type: ignore[type-arg]
    """A tensor object that was seen. Once it has died, its identity and its memory may be another's."""

    __slots__ = ("pinned", "requires_grad", "since", "storage", "value")

    value: ValueId
    storage: int
    """Identity of its memory; 0 for none."""
    requires_grad: bool
    pinned: bool
    """Whether its memory outlives it."""
    since: int
    """Number of ops that there were when it was given a value that none of them made."""


class Tensors:
    """Gives value numbers to the tensors of one recording."""

    def __init__(self, tape: Tape, caller: Callable[[], SiteId]) -> None:
        """`caller` gives the site of the call that is being made."""
        self.owners: dict[ValueId, ParameterKey] = {}
        """Value → identity of the watched tensor (a parameter) whose content it is."""
        self.watched: dict[ParameterKey, Tensor] = {}
        """The parameters followed, by identity."""
        self.keep: list[Any] = []
        """Objects kept alive until the recording ends, so that their identity stays theirs."""
        self.running = False
        """Whether the forward or the loss is being recorded, rather than the build."""
        self.loading = NO_MODULE
        """Number of the module whose ``load_state_dict`` is running."""
        self.tracked: dict[int, TrackedTensor] = {}
        """By identity of the tensor; those that have died may still be in it."""
        self.writes: dict[int, tuple[int, ValueId]] = {}
        """Storage → (op, value) of the last write to it."""
        self._tape = tape
        self._caller = caller
        self._storages: dict[int, TrackedTensor | ValueId] = {}
        """Storage → the last tensor that took hold of it; a number where the value is known to be in it still."""
        self._once: dict[int, ValueId] = {}
        """Storage → the last value that was ever in it."""
        self._exports: ExportedMemory[TrackedTensor] = ExportedMemory()
        self._watched_storages: dict[int, ParameterKey] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def entry_of(self, tensor: Tensor) -> TrackedTensor | None:
        """What is remembered of a tensor object; None if it was never seen."""
        entry = self.tracked.get(id(tensor))
        return entry if entry is not None and entry() is tensor else None

    def read(self, tensor: Tensor, run: int = -1, site: SiteId = NO_SITE, region: EventIndex = GRAD_ON) -> ValueId:
        """The value of a tensor that is about to be used."""
        entry = self.entry_of(tensor)
        if entry is None:
            return self._unknown(tensor, site, region)
        tape = self._tape
        self._catch_up(tensor, entry, site, region)
        if tape.run_of:
            inner = tape.run_of.get(tape.values[entry.value].producer, -1)
            if inner >= 0 and inner != run:
                left = tape.runs[inner]
                old = entry.value
                value = self._renew(tensor, entry, len(tape.ops))
                if run >= 0:
                    tape.run_of[len(tape.ops)] = run
                tape.synthetic(left.cls, KIND_OPAQUE, (*left.inputs, old), value, left.site, left.region)
                return value
        if tensor.requires_grad != entry.requires_grad:
            # Its autograd state changed by no call that was seen (an output wrapped by C++, a thread's backward).
            old = entry.value
            if tensor.grad_fn is not None:
                value = self._renew(tensor, entry, len(tape.ops))
                tape.synthetic("alias", KIND_ALIAS, (old, *self._leaves(tensor)), value, site, region)
            else:
                entry.requires_grad = tensor.requires_grad
                tape.values[old] = tape.values[old]._replace(requires_grad=entry.requires_grad)
        return entry.value

    def _catch_up(self, tensor: Tensor, entry: TrackedTensor, site: SiteId, region: EventIndex) -> None:
        """A new value for a tensor whose memory was written to by way of another one."""
        tape = self._tape
        write = self.writes.get(entry.storage)
        if write is None or write[1] == entry.value or write[0] < entry.since:
            return
        if write[0] > tape.values[entry.value].producer:
            old = entry.value
            value = self._renew(tensor, entry, len(tape.ops))
            self.writes[entry.storage] = (len(tape.ops), value)
            tape.synthetic("alias", KIND_ALIAS, (old, write[1]), value, site, region)

    def _unknown(self, tensor: Tensor, site: SiteId, region: EventIndex) -> ValueId:
        """A tensor that no recorded op made: a leaf, a wrapper, or the output of something that was not seen."""
        tape = self._tape
        plain = _unwrapped(tensor)
        sources: list[ValueId] = []
        if plain is not tensor and self.entry_of(plain) is not None:
            sources.append(self.read(plain, -1, site, region))
        else:
            storage = storage_id(plain)
            held = self._held_in(storage)
            if held is not None:
                sources.append(held)
            elif not self.running and (copied := self._copied(storage)) is not None:
                sources.append(copied)  # a deepcopy: Parameter(data.clone())
            elif self._exports and storage:
                sources += [entry.value for entry in self._exports.at(_address(plain))]
        if tensor.grad_fn is not None:
            reached = self._leaves(tensor)
            custom = getattr(type(tensor.grad_fn), "_forward_cls", None)
            inner = {tape.run_of.get(tape.values[v].producer, -1) for v in sources} - {-1}
            if inner:
                left = tape.runs[inner.pop()]
                value = self.add(tensor, len(tape.ops))
                tape.synthetic(left.cls, KIND_OPAQUE, (*left.inputs, *sources), value, left.site, left.region)
                return value
            if not sources:
                value = self.add(tensor, len(tape.ops))
                if custom is not None:
                    tape.synthetic(custom or "unseen", KIND_OPAQUE, reached, value, site, region)
                if custom is None and plain is tensor:
                    tape.note_unseen(f"an operation that no recorded call made ({tensor.grad_fn.name()})", site)
                return value
            sources += [v for v in reached if v not in sources]
        if sources:
            value = self.add(tensor, len(tape.ops))
            tape.synthetic("alias", KIND_ALIAS, tuple(sources), value, site, region)
            return value
        value = self.add(tensor, -1)
        if id(tensor) in self.watched:
            self.owners[value] = ParameterKey(id(tensor))
        return value

    def _held_in(self, storage: int) -> ValueId | None:
        """The value that a storage holds now, as far as a tensor that lives says so."""
        holder = self._storages.get(storage)
        if holder is None or isinstance(holder, int):
            return holder
        return holder.value if holder.pinned or holder() is not None else None

    def _copied(self, storage: int) -> ValueId | None:
        """The value once held by a storage that was filled from other tensors.

        To be asked of parameters just made, and while the set-up is built: later, memory is reused too often.
        """
        value = self._once.get(storage)
        if value is None:
            return None
        producer = self._tape.values[value].producer
        ops = self._tape.ops
        return value if 0 <= producer < len(ops) and ops[producer].inputs else None

    def _leaves(self, tensor: Tensor) -> tuple[ValueId, ...]:
        """The values of the leaf tensors that autograd reaches from a tensor."""
        found: dict[ValueId, None] = {}
        for leaf in leaves([tensor]):
            entry = self.entry_of(leaf)
            found[entry.value if entry is not None else self.add(leaf, -1)] = None
        return tuple(found)

    # -- making and writing -------------------------------------------------------------------------------------

    def add(self, tensor: Tensor, producer: int) -> ValueId:
        """Give a tensor object that was not known (or is made anew) a value; returns the value's number."""
        try:
            storage = tensor.untyped_storage()._cdata
        except (RuntimeError, NotImplementedError, AttributeError, ValueError):
            storage = storage_id(tensor)
        values = self._tape.values
        value: ValueId = len(values)  # type: ignore[assignment]  # ValueId() costs a call
        entry = TrackedTensor(tensor)
        entry.value = value
        entry.storage = storage
        entry.requires_grad = needs = tensor.requires_grad
        entry.pinned = False
        entry.since = 0
        if _is_wrapped is not None and _is_wrapped(tensor):
            needs = needs or _unwrapped(tensor).requires_grad
            # torch.func gives back what is inside after the wrapper died: keep the memory's identity from being reused
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self.keep.append(_weak_storage(_unwrapped(tensor).untyped_storage()))
                entry.pinned = True
        values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), tensor.dtype)))
        self.tracked[id(tensor)] = entry
        if storage:
            self._storages[storage] = entry
            self._once[storage] = value
        return value

    def _renew(self, tensor: Tensor, entry: TrackedTensor, producer: int) -> ValueId:
        """A new value for a known tensor object whose content or autograd state has changed."""
        values = self._tape.values
        value: ValueId = len(values)  # type: ignore[assignment]  # ValueId() costs a call
        entry.requires_grad = tensor.requires_grad
        needs = entry.requires_grad or _unwrapped(tensor).requires_grad
        values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), tensor.dtype)))
        key = ParameterKey(id(tensor))
        if key in self.watched:
            self.owners[value] = key
        entry.value = value
        if producer < 0:
            entry.since = len(self._tape.ops)
        if entry.storage:
            self._storages[entry.storage] = entry
            self._once[entry.storage] = value
        return value

    def write(
        self, tensor: Tensor, func: Any, read: tuple[ValueId, ...], inputs: list[Tensor], site: SiteId
    ) -> ValueId:
        """A value for what the op now being written down has written to a tensor."""
        op = len(self._tape.ops)
        entry = self.entry_of(tensor)
        if entry is None:
            value = self.add(tensor, op)
            entry = self.tracked[id(tensor)]
        else:
            if getattr(func, "__name__", "") in ("__set__", "set_", "resize_"):
                entry.storage = storage_id(tensor)
            value = self._renew(tensor, entry, op)
        if id(tensor) in self.watched and getattr(func, "__name__", "") == "detach_":
            if read and self._tape.values[read[0]].requires_grad:  # of a leaf, it only takes the flag away
                self._tape.event(Freeze, site, ParameterKey(id(tensor)), NO_MODULE)
            return value
        self.writes[entry.storage] = (op, value)
        key = ParameterKey(id(tensor))
        owner = key if key in self.watched else self._watched_storages.get(entry.storage)
        if owner is not None:
            self._parameter_written(self.watched[owner], func, read, inputs, site)
        return value

    def _parameter_written(
        self, tensor: Tensor, func: Any, read: tuple[ValueId, ...], inputs: list[Tensor], site: SiteId
    ) -> None:
        name = getattr(func, "__name__", "") or ""
        if name == "__set__":
            name = "data"
        sources = tuple(v for v, t in zip(read, inputs, strict=False) if t is not tensor)
        self._tape.event(ParameterWrite, site, ParameterKey(id(tensor)), name, sources, self.loading)

    def update_requires_grad(self, tensor: Tensor) -> None:
        """To be called when a tensor's ``requires_grad`` may have been set."""
        entry = self.entry_of(tensor)
        if entry is None or tensor.requires_grad == entry.requires_grad:
            return
        tape = self._tape
        self._catch_up(tensor, entry, NO_SITE, tape.region)
        old = entry.value
        watched = id(tensor) in self.watched
        value = self._renew(tensor, entry, -1 if watched else len(tape.ops))
        if not watched:
            tape.synthetic("requires_grad_", 0, (old,), value, self._caller(), tape.region)

    def export(self, tensor: Tensor) -> None:
        """To be called when a tensor's memory leaves torch: what comes back from there is known by its address."""
        address = _address(tensor)
        entry = self.entry_of(tensor)
        if address and entry is not None:
            start = address - int(tensor.storage_offset()) * tensor.element_size()
            self._exports.add(start, start + int(tensor.untyped_storage().nbytes()), entry)

    # -- parameters ---------------------------------------------------------------------------------------------

    def watch(self, tensor: Tensor, copied: Tensor | None = None) -> bool:
        """Follow a parameter's identity: its values get an owner, its writes become events. True when it is new.

        `copied` is what it was made from, where that is known and no call of torch's tells.
        """
        key = ParameterKey(id(tensor))
        if key in self.watched:
            return False
        self.watched[key] = tensor
        storage = storage_id(tensor)
        if storage:
            self._watched_storages.setdefault(storage, key)
        entry = self.entry_of(tensor)
        if entry is not None:
            self.owners[entry.value] = key
            return True
        held = self._held_in(storage)
        source = held if held is not None else self._copied(storage)  # Parameter(a + b): the sum has died
        if copied is not None:
            source = self.read(copied)
        tape = self._tape
        value = self.add(tensor, len(tape.ops) if source is not None else -1)
        if source is not None:
            site = NO_SITE if copied is None else self._caller()
            tape.synthetic("alias" if copied is None else "deepcopy", KIND_ALIAS, (source,), value, site, tape.region)
        self.owners[value] = key
        return True

    def rebase(self, tensors: Iterable[Tensor]) -> dict[ParameterKey, ValueId]:
        """Give parameters a fresh value without a producer: what they hold when the forward begins.

        Returns the value that each had before, by identity.
        """
        before: dict[ParameterKey, ValueId] = {}
        for tensor in tensors:
            key = ParameterKey(id(tensor))
            storage = storage_id(tensor)
            if key not in self.watched and self.entry_of(tensor) is None and storage in self._once:
                if self._held_in(storage) is None:
                    self._storages[storage] = self._once[storage]  # a deepcopy: Parameter(data.clone())
            self.watch(tensor)
            before[key] = self.read(tensor)
            entry = self.tracked[key]
            entry.storage = storage
            self._renew(tensor, entry, -1)
            if storage:
                self._watched_storages[storage] = key
                self.writes.pop(storage, None)
        return before

    def forget(self) -> None:
        """The recording is over: hold no tensor and no memory of one any longer."""
        for held in (self.tracked, self.writes, self._storages, self._exports, self.keep):
            held.clear()


def tensors_in(thing: Any) -> list[Tensor]:
    """The tensors in nested lists, tuples and dicts."""
    if isinstance(thing, Tensor):
        return [thing]
    if isinstance(thing, list | tuple):
        return [t for part in thing for t in tensors_in(part)]
    if isinstance(thing, Mapping):
        return [t for part in thing.values() for t in tensors_in(part)]
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


def storage_id(tensor: Tensor) -> int:
    """An identity of the memory behind a tensor; 0 where it has none to speak of."""
    try:
        return int(tensor.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError, AttributeError, ValueError):  # ValueError: a lazy parameter
        pass
    plain = _unwrapped(tensor)
    if plain is not tensor:
        return storage_id(plain)
    return 0


def _address(tensor: Tensor) -> int:
    try:
        return int(tensor.data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0
