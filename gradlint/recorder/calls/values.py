"""Number the values that tensors hold, by identity, memory and position in the autograd graph."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from gradlint.recorder.calls.exported_memory import ExportedMemory
from gradlint.recorder.calls.tape import Tape
from gradlint.recorder.facts.autograd import leaves
from gradlint.traces.events import Freeze, ParameterWrite
from gradlint.traces.ids import NO_MODULE, NO_SITE, EventIndex, ParameterKey, SiteId, ValueId
from gradlint.traces.op_families import ALLOCATIONS, RANDOM_TENSORS, VIEWS
from gradlint.traces.ops import GRAD_ON, KIND_ALIAS, KIND_OPAQUE, Value


class _DtypeNames(dict[torch.dtype, str]):
    def __missing__(self, dtype: torch.dtype) -> str:
        name = self[dtype] = str(dtype).removeprefix("torch.")
        return name


_DTYPE_NAMES = _DtypeNames()


class TrackedTensor(weakref.ref):  # type: ignore[type-arg]
    """A weak reference to a tensor. After its death, another tensor may get its identity and its memory."""

    __slots__ = ("pinned", "requires_grad", "since", "storage", "value")

    value: ValueId
    storage: int
    """Identity of the tensor's storage; 0 for none."""
    requires_grad: bool
    pinned: bool
    """True if something else keeps its memory alive."""
    since: int
    """Number of ops recorded before it got its value, if no op made that value; else 0."""


class Tensors:
    """Gives value numbers to the tensors of one recording."""

    def __init__(self, tape: Tape, caller: Callable[[], SiteId]) -> None:
        """Prepare an empty table; `caller` returns the site of the call being recorded."""
        self.owners: dict[ValueId, ParameterKey] = {}
        """Value → identity of the parameter whose content it is."""
        self.watched: dict[ParameterKey, Tensor] = {}
        """Identity → parameter, for the parameters that are followed."""
        self.keep: list[Any] = []
        """Objects kept alive until the recording ends, so that no other object gets their identity."""
        self.running = False
        """True while the forward or the loss is recorded; False during build()."""
        self.loading = NO_MODULE
        self.converting = False
        """Number of the module whose ``load_state_dict`` is running; -1 for none."""
        self.tracked: dict[int, TrackedTensor] = {}
        """Identity of a tensor → its entry; entries of dead tensors may remain."""
        self.writes: dict[int, tuple[int, ValueId]] = {}
        """Storage → (index of the op, value) of the last write to it."""
        self._tape = tape
        self._caller = caller
        self._storages: dict[int, TrackedTensor | ValueId] = {}
        """Storage → entry of the last tensor in it, or the number of a value that is surely still in it."""
        self._once: dict[int, ValueId] = {}
        """Storage → the last value in it, dead or alive."""
        self.allocated: dict[ParameterKey, weakref.ref[Tensor]] = {}
        """Identity → parameter that was made of allocated memory before anything was written to it."""
        self.exported: set[int] = set()
        """Storages whose memory left torch."""
        self._exports: ExportedMemory[TrackedTensor] = ExportedMemory()
        self._watched_storages: dict[int, ParameterKey] = {}

    # -- reading ------------------------------------------------------------------------------------------------

    def entry_of(self, tensor: Tensor) -> TrackedTensor | None:
        """Return the entry of a tensor; None if it was never seen."""
        entry = self.tracked.get(id(tensor))
        return entry if entry is not None and entry() is tensor else None

    def read(self, tensor: Tensor, run: int = -1, site: SiteId = NO_SITE, region: EventIndex = GRAD_ON) -> ValueId:
        """Return the value of a tensor that is about to be used."""
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
            # No recorded call changed its autograd state: C++ wrapped an output, or another thread ran a backward.
            old = entry.value
            if tensor.grad_fn is not None:
                value = self._renew(tensor, entry, len(tape.ops))
                tape.synthetic("alias", KIND_ALIAS, (old, *self._leaves(tensor)), value, site, region)
            else:
                entry.requires_grad = tensor.requires_grad
                tape.values[old] = tape.values[old]._replace(requires_grad=entry.requires_grad)
        return entry.value

    def _catch_up(self, tensor: Tensor, entry: TrackedTensor, site: SiteId, region: EventIndex) -> None:
        """Give a tensor a new value if another tensor of its memory was written to."""
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
        """Return a value for a tensor that no recorded op made.

        Such a tensor is a leaf, a wrapper, or the output of an unrecorded call.
        """
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
            known = self._leading_to(sources)
            sources += [v for v in reached if v not in known]
        if sources:
            value = self.add(tensor, len(tape.ops))
            tape.synthetic("alias", KIND_ALIAS, tuple(sources), value, site, region)
            return value
        value = self.add(tensor, -1)
        if id(tensor) in self.watched:
            self.owners[value] = ParameterKey(id(tensor))
        return value

    def _held_in(self, storage: int) -> ValueId | None:
        """Return the value in a storage if a living tensor vouches for it; else None."""
        holder = self._storages.get(storage)
        if holder is None or isinstance(holder, int):
            return holder
        return holder.value if holder.pinned or holder() is not None else None

    def _copied(self, storage: int) -> ValueId | None:
        """Return the last value in a storage if it is made from other tensors or at random.

        Only for parameters just created, and during build(): later, memory is reused too often.
        """
        value = self._once.get(storage)
        if value is None:
            return None
        producer = self._tape.values[value].producer
        op = self._tape.ops[producer] if 0 <= producer < len(self._tape.ops) else None
        return value if op is not None and (op.inputs or op.name in RANDOM_TENSORS) else None

    def _leaves(self, tensor: Tensor) -> tuple[ValueId, ...]:
        """Return the values of the leaf tensors that autograd reaches from a tensor."""
        values: dict[ValueId, None] = {}
        for leaf in leaves([tensor]):
            entry = self.entry_of(leaf)
            values[entry.value if entry is not None else self.add(leaf, -1)] = None
        return tuple(values)

    def _leading_to(self, sources: Sequence[ValueId]) -> set[ValueId]:
        """Return the values through which recorded ops carry autograd's graph to some values."""
        tape = self._tape
        known = set(sources)
        waiting = list(sources)
        while waiting:
            producer = tape.values[waiting.pop()].producer
            if 0 <= producer < len(tape.ops):
                for value in tape.ops[producer].inputs:
                    if value not in known and tape.values[value].requires_grad:
                        known.add(value)
                        waiting.append(value)
        return known

    # -- making and writing -------------------------------------------------------------------------------------

    def add(self, tensor: Tensor, producer: int) -> ValueId:
        """Give a new tensor a value, and return its number."""
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
            # torch.func returns the inner tensor after the wrapper's death: no other storage may get its identity
            with contextlib.suppress(RuntimeError, NotImplementedError):
                self.keep.append(_weak_storage(_unwrapped(tensor).untyped_storage()))
                entry.pinned = True
        values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), _DTYPE_NAMES[tensor.dtype])))
        self.tracked[id(tensor)] = entry
        if storage:
            self._storages[storage] = entry
            self._once[storage] = value
        return value

    def _renew(self, tensor: Tensor, entry: TrackedTensor, producer: int) -> ValueId:
        """Give a known tensor a new value after its content or autograd state has changed."""
        values = self._tape.values
        value: ValueId = len(values)  # type: ignore[assignment]  # ValueId() costs a call
        entry.requires_grad = tensor.requires_grad
        needs = entry.requires_grad or _unwrapped(tensor).requires_grad
        values.append(tuple.__new__(Value, (producer, needs, _shape(tensor), _DTYPE_NAMES[tensor.dtype])))
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
        """Give a tensor a new value that the op being recorded has written."""
        op = len(self._tape.ops)
        entry = self.entry_of(tensor)
        if entry is None:
            value = self.add(tensor, op)
            entry = self.tracked[id(tensor)]
        else:
            if getattr(func, "__name__", "") in ("__set__", "set_", "resize_"):
                self._move(tensor, entry, storage_id(tensor))
            value = self._renew(tensor, entry, op)
        if id(tensor) in self.watched and getattr(func, "__name__", "") == "detach_":
            if read and self._tape.values[read[0]].requires_grad:  # on a leaf, it only clears requires_grad
                self._tape.event(Freeze, site, ParameterKey(id(tensor)), NO_MODULE)
            return value
        self.writes[entry.storage] = (op, value)
        key = ParameterKey(id(tensor))
        owner = key if key in self.watched else self._watched_storages.get(entry.storage)
        if owner is not None:
            self._parameter_written(self.watched[owner], tensor, func, read, inputs, site)
        return value

    def _move(self, tensor: Tensor, entry: TrackedTensor, storage: int) -> None:
        """Note the memory that a tensor has now.

        Its old memory is forgotten, as another tensor may get that.
        """
        key = ParameterKey(id(tensor))
        if key in self.watched:
            if storage != entry.storage and self._watched_storages.get(entry.storage) == key:
                del self._watched_storages[entry.storage]
            if storage:
                self._watched_storages[storage] = key
        entry.storage = storage

    def _parameter_written(
        self,
        parameter: Tensor,
        tensor: Tensor,
        func: Any,
        read: tuple[ValueId, ...],
        inputs: list[Tensor],
        site: SiteId,
    ) -> None:
        """Note that a parameter was written to, by way of a tensor that shares its memory."""
        name = getattr(func, "__name__", "") or ""
        if name == "__set__":
            name = "data"
        sources = tuple(v for v, t in zip(read, inputs, strict=False) if t is not tensor and t is not parameter)
        key = ParameterKey(id(parameter))
        self._tape.event(ParameterWrite, site, key, name, sources, self.loading, self.converting)

    def update_requires_grad(self, tensor: Tensor) -> None:
        """Update a tensor's value after its ``requires_grad`` may have been set."""
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

    def export(self, tensor: Tensor, array: object) -> None:
        """Remember the address of a tensor's memory that leaves torch, to recognize its return.

        An array keeps the memory alive by a tensor of its own, so that the exported one may be gone by then.
        """
        address = _address(tensor)
        entry = self.entry_of(tensor)
        self.exported.add(storage_id(tensor))
        if address and entry is not None:
            holder = getattr(array, "base", None)
            if isinstance(holder, Tensor) and holder is not tensor:
                entry = self._share(holder, entry)
            start = address - int(tensor.storage_offset()) * tensor.element_size()
            self._exports.add(start, start + int(tensor.untyped_storage().nbytes()), entry)

    def _share(self, tensor: Tensor, entry: TrackedTensor) -> TrackedTensor:
        """Give a new tensor the value of another one of the same memory."""
        shared = TrackedTensor(tensor)
        shared.value, shared.storage, shared.since = entry.value, entry.storage, entry.since
        shared.requires_grad, shared.pinned = tensor.requires_grad, False
        self.tracked[id(tensor)] = shared
        return shared

    def release(self, tensor: Tensor) -> None:
        """Forget a tensor.

        torch exchanges the contents of tensors without weak references only.
        """
        entry = self.tracked.pop(id(tensor), None)
        self.allocated.pop(ParameterKey(id(tensor)), None)
        if entry is not None:
            if self._storages.get(entry.storage) is entry:
                self._storages[entry.storage] = entry.value
            self._exports.forget(entry)

    def exchanged(self, tensor: Tensor, read: tuple[ValueId, ...], inputs: list[Tensor], site: SiteId) -> ValueId:
        """Give a released tensor a new value.

        The op being recorded has exchanged its content.
        """
        value = self.add(tensor, len(self._tape.ops))
        key = ParameterKey(id(tensor))
        if key in self.watched:
            self.owners[value] = key
            self._watched_storages[storage_id(tensor)] = key
            self._parameter_written(tensor, tensor, torch.utils.swap_tensors, read, inputs, site)
        return value

    # -- parameters ---------------------------------------------------------------------------------------------

    def watch(self, tensor: Tensor, copied: Tensor | None = None) -> bool:
        """Follow a parameter: its values get an owner, its writes become events.

        Returns True if the parameter is new. `copied` is the tensor it was copied from, if no torch call shows that.
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
        source = held if held is not None else self._copied(storage)  # Parameter(a + b): the sum is dead
        if copied is not None:
            source = self.read(copied)
        tape = self._tape
        value = self.add(tensor, len(tape.ops) if source is not None else -1)
        if source is not None:
            site = NO_SITE if copied is None else self._caller()
            tape.synthetic("alias" if copied is None else "deepcopy", KIND_ALIAS, (source,), value, site, tape.region)
        self.owners[value] = key
        return True

    def gather(self, whole: Tensor, shard: Tensor, site: SiteId) -> None:
        """Record that a whole parameter is gathered from its shard and those of other processes."""
        tape = self._tape
        source, number = self.read(shard), len(tape.ops)
        entry = self.entry_of(whole)
        value = self.add(whole, number) if entry is None else self._renew(whole, entry, number)
        tape.synthetic("all_gather", KIND_ALIAS, (source,), value, site, tape.region)

    def note_allocation(self, parameter: Tensor, data: Tensor) -> None:
        """Note a parameter that is made of memory as its allocation returned it."""
        entry = self.entry_of(data)
        if entry is None:
            return
        ops, values = self._tape.ops, self._tape.values
        producer = values[entry.value].producer
        written = self.writes.get(entry.storage)
        if written is not None and written[0] >= producer:
            return
        while 0 <= producer < len(ops) and ops[producer].name in VIEWS and ops[producer].inputs:
            producer = values[ops[producer].inputs[0]].producer
        if 0 <= producer < len(ops) and ops[producer].name in ALLOCATIONS:
            self.allocated[ParameterKey(id(parameter))] = weakref.ref(parameter)

    def rebase(self, tensors: Iterable[Tensor]) -> dict[ParameterKey, ValueId]:
        """Give parameters a new value without a producer, at the start of the forward.

        Returns identity → the value before.
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
            self._move(tensor, entry, storage)
            self._renew(tensor, entry, -1)
            self.writes.pop(storage, None)
        return before

    def forget(self) -> None:
        """Release all tensors and memory at the end of the recording."""
        for held in (self.tracked, self.writes, self._storages, self._exports, self.keep):
            held.clear()


def tensors_in(thing: Any) -> list[Tensor]:
    """Return the tensors in nested lists, tuples and mappings."""
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


def is_wrapped(tensor: Tensor) -> bool:
    """Return True if a tensor is a wrapper of torch.func."""
    return _is_wrapped is not None and bool(_is_wrapped(tensor))


def _unwrapped(tensor: Tensor) -> Tensor:
    """Return the plain tensor inside torch.func's wrappers, or the tensor itself."""
    if _is_wrapped is None or _unwrap_once is None:
        return tensor
    while _is_wrapped(tensor):
        tensor = _unwrap_once(tensor)
    return tensor


def _shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape; empty for a lazy parameter without one."""
    try:
        return tensor.shape
    except (RuntimeError, ValueError):
        return ()


def storage_id(tensor: Tensor) -> int:
    """Return the identity of a tensor's storage; 0 if it has none."""
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
