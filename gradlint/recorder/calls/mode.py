"""Record every torch call in a TorchFunctionMode.

This is the hot path: it runs once per torch call of the user's model, so it appends tuples and resolves nothing.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FrameType
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import Parameter
from torch.overrides import TorchFunctionMode

from gradlint.errors import GradlintError
from gradlint.load.build import InternalError
from gradlint.location import Code
from gradlint.recorder.calls import dispatch
from gradlint.recorder.calls.call_chains import CallChains, Chain
from gradlint.recorder.calls.frame_locals import local_variables
from gradlint.recorder.calls.probabilities import has_probabilities
from gradlint.recorder.calls.tape import FunctionRun, Tape
from gradlint.recorder.calls.values import Tensors, is_wrapped, tensors_in
from gradlint.recorder.cuda import CpuStandIn
from gradlint.restore.mode_stack import function_modes
from gradlint.restore.preserved import Preserved
from gradlint.traces.events import Event, Freeze, GradModeOff, Unfreeze
from gradlint.traces.ids import NO_CALL, NO_MODULE, EventIndex, OpIndex, ParameterKey, SiteId, ValueId
from gradlint.traces.op_families import MEMORY_OUT
from gradlint.traces.ops import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_EXTRACT,
    KIND_OPAQUE,
    KIND_PLAIN,
    KIND_WRITE,
    TENSOR,
    Op,
    TorchConstant,
)

_PLAIN = frozenset((int, float, str, bool, complex, type(None), type(Ellipsis)))
"""Types of arguments that are recorded unchanged."""

_TORCH_CONSTANTS = frozenset((torch.dtype, torch.device, torch.layout, torch.memory_format))

_next_node: Callable[[], int] = getattr(getattr(torch._C, "_autograd", None), "_get_sequence_nr", lambda: -1)
"""A function that returns the number that autograd gives to its next node."""

_OPERATIONS = frozenset((dispatch.RECORD, dispatch.WRITE, dispatch.LOGITS))
_NO_TENSORS = frozenset((type(None), bool, int, float, str))


_Fields = ParamSpec("_Fields")
_Event = TypeVar("_Event", bound=Event)

_STOPPED = 1 << 30
"""Added to `Recorder.paused` to stop for ever: more pauses than are ever open at once."""

BeforeCall = Callable[[Any, tuple[Any, ...], dict[str, Any]], None]


class GradListener(Protocol):
    """Follows the switches of grad mode and the reads of gradients in recorded code."""

    def grad_switched_off(self, event: EventIndex, site: SiteId, library: CodeType | None) -> None:
        """Take note of a switch to off; `library` is the code of the library function that made it."""

    def grad_switched_on(self) -> None:
        """Take note of a switch to on."""

    def gradient_read(self, tensor: Tensor) -> None:
        """Take note of a read of a tensor's ``grad``."""


class Recorder(TorchFunctionMode):
    """Records the torch calls of its own thread while it is entered.

    A torch function written in Python (``F.multi_head_attention_forward``) counts as one op. Ops inside scripted
    modules, in C++ and in other threads are not recorded.
    """

    def __init__(self, on_fault: Callable[[], None] | None = None) -> None:
        """Prepare a recorder; `on_fault` is called once if gradlint itself fails."""
        super().__init__()
        self.tape = Tape()
        self.chains = CallChains(self.tape.sites, self.tape.calls)
        self.tensors = Tensors(self.tape, lambda: self.walk(sys._getframe(2)).site)
        self.thread = threading.get_ident()
        self.paused = 0
        """Number of open pauses. Above zero, calls pass through unrecorded. Only `Recorder` writes to it."""
        self.fault: InternalError | None = None
        """The failure of gradlint itself, if there was one."""
        self.module_filter: Callable[[nn.Module, bool], bool] | None = None
        """The function that decides which module calls to record; see `filtering_module_calls`."""
        self.forward_begun = False
        """True once the forward that is recorded, or the training that is observed, has begun."""
        self.through = NO_MODULE
        """Number of the module whose ``requires_grad_`` is running; -1 for none."""
        self._on_fault = on_fault
        self._before_call: BeforeCall | None = None
        self._before_write: Callable[[Tensor], None] | None = None
        self._grad_listener: GradListener | None = None
        self._rewrite: Callable[..., tuple[Any, tuple[Any, ...], dict[str, Any]] | None] | None = None
        self._rewritten_functions: frozenset[Any] = frozenset()
        self._rewritten_keywords: frozenset[str] = frozenset()
        self._kinds = dict(dispatch.TABLE)
        self._last_off = GRAD_ON

    @property
    def active(self) -> bool:
        """True if calls of this thread are recorded now."""
        return not self.paused and threading.get_ident() == self.thread

    @property
    def on_top(self) -> bool:
        """True if this is the innermost function mode; False if torch cannot say."""
        current = getattr(torch.overrides, "_get_current_function_mode", None)
        return current is not None and current() is self

    def records(self, func: Any) -> bool:
        """Return True if calls of a function are recorded as operations."""
        kind = self._kinds.get(func)
        return (dispatch.classify(func) if kind is None else kind) & ~dispatch.ANNOUNCED in _OPERATIONS

    # -- when to record, and who takes part ------------------------------------------------------------------------

    def pause(self) -> None:
        """Let calls pass through unrecorded until the matching `resume`; pauses nest."""
        self.paused += 1

    def resume(self) -> None:
        """End one pause."""
        self.paused -= 1

    @contextlib.contextmanager
    def pausing(self) -> Iterator[None]:
        """Let the calls inside pass through unrecorded."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1

    @contextlib.contextmanager
    def resuming(self) -> Iterator[None]:
        """Record the calls inside although a pause is open; not after `stop`."""
        outer = self.paused if self.paused < _STOPPED else 0
        self.paused -= outer
        try:
            yield
        finally:
            self.paused += outer

    def stop(self) -> None:
        """Record nothing more, whatever pauses end later."""
        self.paused += _STOPPED

    def give_up(self, error: Exception) -> None:
        """Stop because gradlint itself has failed; the user's code runs on."""
        self.stop()
        if self.fault is None:
            self.fault = InternalError.from_exception(error)
            if self._on_fault is not None:
                self._on_fault()

    @contextlib.contextmanager
    def announcing_writes_to(self, preserved: Preserved) -> Iterator[None]:
        """Announce every write to `preserved` before it happens, recorded or not.

        An outer `Preserved` hears of none of them.
        """
        outer = self._before_call, self._before_write
        self._before_call, self._before_write = preserved.before_call, preserved.before_write
        try:
            yield
        finally:
            self._before_call, self._before_write = outer

    def announce_write(self, tensor: Tensor) -> None:
        """Announce a write that no torch call shows (an optimizer's fused kernel)."""
        if self._before_write is not None:
            self._before_write(tensor)

    @contextlib.contextmanager
    def filtering_module_calls(self, should_record: Callable[[nn.Module, bool], bool]) -> Iterator[None]:
        """Ask `should_record` before each module call.

        Its second argument is True for an outermost call.
        """
        self.module_filter = should_record
        try:
            yield
        finally:
            self.module_filter = None

    def notify(self, listener: GradListener) -> None:
        """Notify `listener` of grad-mode switches and gradient reads."""
        self._grad_listener = listener

    def redirect_cuda(self, stand_in: CpuStandIn) -> None:
        """Make the calls that name a CUDA device on the CPU while `stand_in` is active."""
        if stand_in.active:
            self._rewrite = stand_in.rewrite
            self._rewritten_functions = stand_in.functions
            self._rewritten_keywords = stand_in.keywords

    # -- the mode -----------------------------------------------------------------------------------------------

    def __exit__(self, *exception: object) -> None:
        """Take the recorder off the stack of modes.

        It may lie below a mode that user code has left entered.
        """
        function_modes.take_off(self)

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run one torch call and record it."""
        kind = self._kinds.get(func)
        if kind is None:
            kind = self._kinds[func] = dispatch.classify(func)
        if kind == dispatch.PASS:
            return func(*args, **kwargs) if kwargs else func(*args)
        if self._rewrite is not None and (
            func in self._rewritten_functions or (kwargs and not self._rewritten_keywords.isdisjoint(kwargs))
        ):
            changed = self._rewrite(func, args, kwargs)
            if changed is not None:
                func, args, kwargs = changed
        if self._before_call is not None and (kwargs or kind & dispatch.ANNOUNCED):
            announce = self._before_call
        else:
            announce = None
        kind &= ~dispatch.ANNOUNCED
        if not self.paused and (kind == dispatch.RECORD or kind == dispatch.WRITE):
            return self._op(func, args, kwargs or None, kind == dispatch.WRITE, announce)
        if not self.paused and kind == dispatch.LOGITS:
            result = self._op(func, args, kwargs or None, False, announce)
            self._look_at(args, kwargs)
            return result
        if announce is not None:
            announce(func, args, kwargs or {})
        result = func(*args, **kwargs) if kwargs else func(*args)
        if self.paused:
            return result
        try:
            if kind == dispatch.SET_GRAD:
                self._grad_mode(bool(args[0]))
            elif kind == dispatch.REQUIRES_GRAD:
                self._requires_grad(args, kwargs)
            elif kind == dispatch.READ_GRAD and self._grad_listener is not None:
                self._grad_listener.gradient_read(args[0])
        except Exception as error:
            self.give_up(error)
        return result

    def _look_at(self, logits: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        """Note the op that was just recorded if its first argument holds probabilities."""
        with contextlib.suppress(Exception):  # values that cannot be read here, as a batch of vmap, say nothing
            if has_probabilities(logits, kwargs):
                self.tape.on_probabilities.append(OpIndex(len(self.tape.ops) - 1))

    def _op(
        self,
        func: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        writes: bool,
        announce: BeforeCall | None,
    ) -> Any:
        calling = called = False
        result = None
        try:
            inputs: list[Tensor] = []
            stripped: list[Any] = []
            for argument in args:
                cls = type(argument)
                if cls is Tensor or cls is Parameter:
                    inputs.append(argument)
                    stripped.append(TENSOR)
                elif cls in _PLAIN:
                    stripped.append(argument)
                else:
                    stripped.append(_strip(argument, inputs))
            named = None
            targets: list[Tensor] = []
            if kwargs is not None:
                named = {k: v if type(v) in _PLAIN else _strip(v, inputs) for k, v in kwargs.items()}
            if writes:
                targets = tensors_in(args[0] if args else next(iter(kwargs.values())) if kwargs else None)
            if kwargs is not None and kwargs.get("out") is not None:
                targets += tensors_in(kwargs["out"])

            site, apply, _, _, _, run = chain = self.chains.walk(sys._getframe(2))
            tape = self.tape
            if apply is not None:
                run = self.function_run(apply, chain)
            if run >= 0:
                region = IN_FUNCTION
            elif torch.is_grad_enabled():
                region = GRAD_ON
            else:
                region = tape.region if tape.region != GRAD_ON else self._unseen_switch(chain)

            # Read before the call, which may write to them. Most have not changed since they were last seen.
            tensors = self.tensors
            tracked, written, crossing = tensors.tracked, tensors.writes, bool(tape.run_of)
            values = []
            for tensor in inputs:
                entry = tracked.get(id(tensor))
                if (
                    entry is None
                    or crossing
                    or entry() is not tensor
                    or entry.requires_grad is not tensor.requires_grad
                    or entry.storage in written
                ):
                    values.append(tensors.read(tensor, run, site, region))
                else:
                    values.append(entry.value)
            read = tuple(values)
            if tape.exported_numbers:
                read += tape.values_of_returned_numbers(stripped)
                if named:
                    read += tape.values_of_returned_numbers(named.values())
            if announce is not None:
                announce(func, args, kwargs or {})

            calling = True
            result = func(*args, **kwargs) if kwargs is not None else func(*args)
            calling, called = False, True

            number = len(tape.ops)
            kind = KIND_PLAIN
            cls = type(result)
            results: tuple[ValueId, ...]
            if cls is Tensor and not targets and tensors.entry_of(result) is None:
                results = (tensors.add(result, number),)
            else:
                outputs = [] if cls in _NO_TENSORS else tensors_in(result)
                if outputs or targets:
                    new_values, wrote = self._outputs(outputs, targets, func, args, kwargs, read, inputs, site)
                    results = tuple(new_values)
                    kind = KIND_WRITE if wrote else KIND_PLAIN
                elif not inputs:
                    return result
                else:
                    results = ()
                    kind = KIND_EXTRACT
                    if cls is float:
                        tape.exported_numbers[id(result)] = [result, number]
                    elif getattr(func, "__name__", "") in MEMORY_OUT:
                        tensors.export(inputs[0], result)
            if run >= 0:
                tape.run_of[number] = run
            call = tape.calls[-1].number if tape.calls else NO_CALL
            tape.ops.append(tuple.__new__(Op, (func, site, call, region, read, results, tuple(stripped), named, kind)))
            if tape.nodes is not None:
                tape.nodes.append((_next_node(), number))  # type: ignore[arg-type]  # OpIndex() costs a call
            return result
        except Exception as error:
            if calling or isinstance(error, GradlintError):
                raise
            self.give_up(error)
            return result if called else func(*args, **(kwargs or {}))

    def _outputs(
        self,
        outputs: list[Tensor],
        targets: list[Tensor],
        func: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any] | None,
        read: tuple[ValueId, ...],
        inputs: list[Tensor],
        site: SiteId,
    ) -> tuple[list[ValueId], bool]:
        """Return the values that a call created or wrote, and True if it wrote any."""
        tensors = self.tensors
        count, wrote = len(targets), bool(targets)
        parts = [(read, inputs)] * count
        if count > 1 and len(inputs) % count == 0 and getattr(func, "__name__", "").startswith("_foreach_"):
            parts = [(read[n::count], inputs[n::count]) for n in range(count)]
        values = [tensors.write(t, func, *part, site) for t, part in zip(targets, parts, strict=True)]
        number = len(self.tape.ops)
        written, given = set(map(id, targets)), set(map(id, inputs))
        for tensor in outputs:
            if id(tensor) in written:
                continue
            if id(tensor) not in given:
                values.append(tensors.add(tensor, number))
            elif _in_place(args, kwargs):
                wrote = True
                values.append(tensors.write(tensor, func, read, inputs, site))
            else:
                values.append(tensors.tracked[id(tensor)].value)  # ``x.to(x.device)`` returns x
        return values, wrote

    def opaque(
        self,
        name: str,
        arguments: list[Tensor],
        inside: list[Tensor],
        output: Any,
        site: SiteId,
        run: int,
        kind: int = KIND_OPAQUE,
    ) -> None:
        """Record one op for a call that runs unseen, with its arguments and the tensors it holds."""
        tape, tensors = self.tape, self.tensors
        region = IN_FUNCTION if run >= 0 else self._region()
        argument_ids = {id(t) for t in arguments}
        read = tuple(tensors.read(t, run, site, region) for t in [*arguments, *inside])
        values = [tensors.add(t, len(tape.ops)) for t in tensors_in(output) if id(t) not in argument_ids]
        if values:
            if run >= 0:
                tape.run_of[len(tape.ops)] = run
            self._append(name, site, region, read, tuple(values), kind)

    def exchange(self, tensors: list[Tensor], read: tuple[ValueId, ...], site: SiteId) -> None:
        """Record that tensors have exchanged their contents; `read` are their values before."""
        values = tuple(self.tensors.exchanged(t, read, tensors, site) for t in tensors)
        self._append(torch.utils.swap_tensors, site, self._region(), read, values, KIND_WRITE)

    def _region(self) -> EventIndex:
        return GRAD_ON if torch.is_grad_enabled() else self.tape.region

    def _append(
        self,
        func: Any,
        site: SiteId,
        region: EventIndex,
        read: tuple[ValueId, ...],
        values: tuple[ValueId, ...],
        kind: int,
    ) -> None:
        """Append an op that passed no function mode."""
        tape = self.tape
        call = tape.calls[-1].number if tape.calls else NO_CALL
        tape.ops.append(Op(func, site, call, region, read, values, (), None, kind))
        if tape.nodes is not None:
            tape.nodes.append((_next_node(), OpIndex(len(tape.ops) - 1)))

    # -- who called ---------------------------------------------------------------------------------------------

    def walk(self, frame: FrameType | None) -> Chain:
        """Return the user's call chain from a frame upwards."""
        return self.chains.walk(frame)

    def function_run(self, frame: FrameType, chain: Chain) -> int:
        """Return the index of the custom Function run that a frame of ``Function.apply`` belongs to."""
        runs, run_of = self.tape.runs, self.tape.run_of
        local = local_variables(frame)
        args = local.get("args", ())
        marker = (id(frame), hash(tuple(id(a) for a in args)))
        if runs and runs[-1].marker == marker:
            return len(runs) - 1
        for number in range(len(runs) - 1, max(-1, len(runs) - 8), -1):
            if runs[number].marker == marker and run_of.get(len(self.tape.ops) - 1, -1) >= number:
                return number
        outer = self.walk(frame.f_back) if frame.f_back is not None else chain
        outer_run = -1
        region = self.tape.region
        if outer.apply is not None:
            outer_run = self.function_run(outer.apply, outer)
            region = IN_FUNCTION
        own = [a for a in args if isinstance(a, Tensor)]  # in the order of the node's edges
        tensors = own + tensors_in(([a for a in args if not isinstance(a, Tensor)], local.get("kwargs", {})))
        inputs = tuple(self.tensors.read(t, outer_run, outer.site, region) for t in tensors)
        runs.append(FunctionRun(local.get("cls"), inputs, outer.site, region, marker))
        return len(runs) - 1

    # -- what else happens --------------------------------------------------------------------------------------

    def event(
        self,
        kind: Callable[Concatenate[EventIndex, OpIndex, SiteId, EventIndex, _Fields], _Event],
        *fields: _Fields.args,
        **named: _Fields.kwargs,
    ) -> _Event:
        """Record an event of a kind, at the user frame that caused it."""
        return self.tape.event(kind, self.walk(sys._getframe(1)).site, *fields, **named)

    def _requires_grad(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> None:
        tensor = args[0]
        wanted = args[1] if len(args) > 1 else (kwargs or {}).get("requires_grad", True)
        self.tensors.update_requires_grad(tensor)
        if tensor.is_leaf and not is_wrapped(tensor):  # torch.func marks its own wrappers, which hold the user's tensor
            self.event(Unfreeze if wanted else Freeze, ParameterKey(id(tensor)), self.through)
            self.tensors.keep.append(tensor)

    def _grad_mode(self, enabled: bool) -> None:
        chain = self.walk(sys._getframe(1))
        if chain.apply is not None or chain.run >= 0:
            return
        tape = self.tape
        if enabled:
            tape.region = GRAD_ON
            if self._grad_listener is not None:
                self._grad_listener.grad_switched_on()
        elif tape.region == GRAD_ON:
            if chain.in_exit and self._last_off != GRAD_ON:
                tape.region = self._last_off  # an enable_grad inside a no_grad ended
            else:
                self.switch_off("no_grad", chain)

    def switch_off(self, how: str, chain: Chain) -> EventIndex:
        """Begin a region without grad mode, and return the number of its event."""
        event = self.tape.event(GradModeOff, chain.site, how, _code(chain.decorated), _code(chain.library))
        self.tape.region = self._last_off = event.number
        if self._grad_listener is not None:
            self._grad_listener.grad_switched_off(event.number, chain.site, chain.library)
        return event.number

    def _unseen_switch(self, chain: Chain) -> EventIndex:
        how = "inference_mode" if torch.is_inference_mode_enabled() else "unknown"
        number = self.switch_off(how, chain)
        self.tape.region = GRAD_ON  # its end will not be seen either
        return number


def _strip(argument: Any, tensors: list[Tensor]) -> Any:
    """Return the argument with a placeholder for each tensor, collected in `tensors`."""
    kind = type(argument)
    if kind in _PLAIN:
        return argument
    if isinstance(argument, Tensor):
        tensors.append(argument)
        return TENSOR
    if kind in _TORCH_CONSTANTS:
        return TorchConstant(kind.__name__, str(argument).removeprefix("torch."))
    if isinstance(argument, list | tuple):
        if len(argument) > 64 and not isinstance(argument[0], Tensor | list | tuple):
            return f"<{len(argument)} items>"
        stripped = [_strip(a, tensors) for a in argument]
        return tuple(stripped) if isinstance(argument, tuple) else stripped
    if isinstance(argument, dict):
        return {k: _strip(v, tensors) for k, v in argument.items()}
    if isinstance(argument, slice):
        return slice(_strip(argument.start, []), _strip(argument.stop, []), _strip(argument.step, []))
    return f"<{kind.__name__}>"  # the object itself would be kept alive


def _code(code: CodeType | None) -> Code | None:
    return Code.of(code) if code is not None else None


def _in_place(args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Return True if a call that returned its argument worked in place (``inplace=True``)."""
    return bool(kwargs and kwargs.get("inplace")) or any(a is True for a in args)
