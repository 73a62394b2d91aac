"""What a training step costs: measured in runs whose changes are all put back.

One run finds the bytes that autograd keeps for backward, a second one counts floating-point operations and leaves
gradients, with which the real optimizer class then takes a step on tensors of gradlint's own.
"""

from __future__ import annotations

import copy
import gc
import inspect
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gradlint.errors import TargetError
from gradlint.flow.cost import Cost, Measured
from gradlint.recorder.calls.values import tensors_in
from gradlint.recorder.facts.autograd import own_gradients
from gradlint.recorder.facts.module_tree import places
from gradlint.restore.tensors import inner_tensors, storage_of
from gradlint.traces.ids import ParameterIndex, ParameterKey
from gradlint.traces.trace import Trace

if TYPE_CHECKING:
    from gradlint.recorder.replay import Replay

_graph_task = getattr(torch._C, "_current_graph_task_id", lambda: -1)
_autograd_node = getattr(torch._C, "_current_autograd_node", lambda: None)

_FACTORS = {
    "MmBackward": (("self", 1), ("mat2", 0)),
    "AddmmBackward": (("mat1", 2), ("mat2", 1)),
    "BmmBackward": (("self", 1), ("mat2", 0)),
    "BaddbmmBackward": (("batch1", 2), ("batch2", 1)),
}
"""Node of a product → its factors: the name that one is saved under, and the position of the other's gradient."""
_SAME_VALUES = tuple(
    "TBackward TransposeBackward ViewBackward UnsafeViewBackward ExpandBackward ToCopyBackward PermuteBackward "
    "UnsqueezeBackward SqueezeBackward ReshapeAliasBackward CloneBackward AliasBackward SelectBackward".split()
)
"""Beginnings of the names of nodes that only pass a parameter's values on."""


def measure_step(trace: Trace, replay: Replay, frozen: Iterable[ParameterIndex] = ()) -> Measured:
    """Return the cost of one training step.

    Args:
        trace: a recording.
        replay: runs its setup again.
        frozen: indices of the parameters to freeze before.

    Raises:
        TargetError: the setup cannot be run again, or its backward raised.
    """
    tensors = replay.tensors
    labels = _Labels(replay.roots)
    with replay.preserving() as preserved:
        preserved.save_all()
        for index in frozen:
            tensors[trace.parameters[index].key].requires_grad_(False)
        try:
            memory = _Memory(labels, _model_memory(replay))
            with memory.watching():
                roots = replay.live(watch=memory)
            gc.collect()  # a graph that a cycle keeps alive is not kept for backward
            kept, inputs_kept = memory.kept(), memory.inputs_kept
            backwards = len(roots) if trace.setup.has_step and trace.training is not None else 1
            del roots
            counted = _Operations(labels)
            with own_gradients(list(tensors.values())):
                with counted.watching():
                    roots = replay.live(watch=counted)
                counted.finish(roots)
                _backward(roots, counted, has_run=counted.has_backward)
                del roots
                gradients = {key: _bytes(t.grad) for key, t in tensors.items() if t.grad is not None}
                states, state_notes = _states(replay)
        except TargetError:
            raise
        except Exception as error:  # the user's code, run a second time, may raise anything
            raise TargetError(
                f"the cost is not measured: a second run raised {type(error).__name__}: {error}"
            ) from error
    costs: dict[str | None, Cost] = defaultdict(Cost)
    for label, size in kept.items():
        costs[label] += Cost(activations=size)
    for label, operations in counted.costs.items():
        costs[label] += operations
    for parameter in trace.parameters:
        module = trace.modules[parameter.module]
        key = parameter.key
        costs[module.fqn if parameter.in_tree and module.in_tree else None] += Cost(
            parameters=parameter.bytes, gradients=gradients.get(key, 0), optimizer=states.pop(key, 0)
        )
    outside = costs.pop(None, Cost()) + Cost(optimizer=sum(states.values()))
    modules = {label: cost for label, cost in costs.items() if label is not None}
    return Measured(modules, outside, inputs_kept, backwards, (*state_notes, *counted.notes()))


class _Labels:
    """Names the running module of the model: None outside of all."""

    def __init__(self, roots: Mapping[str, nn.Module]) -> None:
        self._names: dict[int, str] = {}
        for place in places(roots):
            self._names.setdefault(id(place.module), place.fqn)
        self._running: list[str | None] = [None]

    @property
    def current(self) -> str | None:
        """Name of the running module."""
        return self._running[-1]

    def begin(self, module: nn.Module) -> None:
        """Enter a module; one outside the model counts as part of what calls it."""
        self._running.append(self._names.get(id(module), self.current))

    def end(self) -> None:
        """Leave the module that began last."""
        del self._running[-1]


class _Watch(TorchDispatchMode):
    """Looks at every operation and every module call of a run."""

    def __init__(self, labels: _Labels) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.labels = labels

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at module calls inside the context."""
        with ExitStack() as hooks:
            hooks.callback(register_module_forward_pre_hook(self._before).remove)
            hooks.callback(register_module_forward_hook(self._after, always_call=True).remove)
            yield

    def _before(self, module: nn.Module, args: Any) -> None:
        self.labels.begin(module)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.labels.end()


# -- bytes -------------------------------------------------------------------------------------------------------------


class _Kept:
    """A tensor that autograd keeps for backward, and the module that it belongs to."""

    __slots__ = ("__weakref__", "label", "tensor")

    def __init__(self, tensor: Tensor, label: str | None) -> None:
        self.tensor = tensor
        self.label = label


class _Memory(_Watch):  # type: ignore[no-untyped-call]
    """Collects the tensors that autograd keeps for backward, and the memory that the run makes."""

    def __init__(self, labels: _Labels, model: frozenset[int]) -> None:
        super().__init__(labels)
        self._model = model
        self._made: set[int] = set()
        self._kept: list[weakref.ref[_Kept]] = []
        self.inputs_kept = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at module calls and at what is saved, inside the context."""
        with super().watching(), torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack):
            yield

    def kept(self) -> dict[str | None, int]:
        """Return module → bytes of the memory that it made and that is kept now, each counted once."""
        sizes: dict[str | None, int] = defaultdict(int)
        seen = set(self._model)
        for kept in filter(None, (reference() for reference in self._kept)):
            for pointer, size in _memory(kept.tensor):
                if pointer in seen:
                    continue
                seen.add(pointer)
                if pointer in self._made:
                    sizes[kept.label] += size
                else:
                    self.inputs_kept += size
        return sizes

    def _pack(self, tensor: Tensor) -> _Kept:
        # an output of the node itself comes with its history: to hold it would keep the graph alive for good
        kept = _Kept(tensor.detach(), self.labels.current)
        if _graph_task() == -1:  # what a backward saves for itself is gone with it
            self._kept.append(weakref.ref(kept))
        return kept

    def _unpack(self, kept: _Kept) -> Tensor:
        return kept.tensor

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation, and note the memory that it makes."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = {pointer for tensor in tensors_in(result) for pointer, _ in _memory(tensor)}
        if made:
            made -= {p for tensor in tensors_in([args, kwargs]) for p, _ in _memory(tensor)}
            self._made |= made
        return result


def _memory(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of the storages of a tensor."""
    memory = storage_of(tensor)
    if memory is not None:
        yield memory[1], memory[0].nbytes()
        return
    for part in inner_tensors(tensor):
        yield from _memory(part)


def _bytes(tensor: Tensor) -> int:
    return sum(dict(_memory(tensor)).values())


def _model_memory(replay: Replay) -> frozenset[int]:
    """Return the addresses of parameters and buffers."""
    buffers = [b for root in replay.roots.values() for b in nn.Module.buffers(root)]
    return frozenset(p for tensor in (*replay.tensors.values(), *buffers) for p, _ in _memory(tensor))


# -- floating-point operations -----------------------------------------------------------------------------------------


class _Operations(_Watch):  # type: ignore[no-untyped-call]
    """Counts floating-point operations by torch's own formulas, as FlopCounterMode does."""

    def __init__(self, labels: _Labels) -> None:
        super().__init__(labels)
        self.costs: dict[str | None, Cost] = defaultdict(Cost)
        self.has_backward = False
        """True if the run itself goes backward."""
        self._nodes: dict[Any, str | None] = {}
        self._without_formula: dict[str, int] = defaultdict(int)

    def notes(self) -> tuple[str, ...]:
        """Return a note for each product that torch has no formula for."""
        return tuple(
            f"torch has no FLOP formula for {name} ({calls} {'call' if calls == 1 else 'calls'}), which counts as zero"
            for name, calls in self._without_formula.items()
        )

    def finish(self, roots: Sequence[Tensor]) -> None:
        """Take the rest of the autograd graph as made outside of all modules."""
        self._label(roots, None)

    def _before(self, module: nn.Module, args: Any) -> None:
        self._label(tensors_in(args), self.labels.current)
        super()._before(module, args)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._label(tensors_in(output), self.labels.current)
        super()._after(module, args, output)

    def _label(self, tensors: Iterable[Tensor], label: str | None) -> None:
        """Name the module of the nodes behind some tensors that have none yet."""
        pending = [tensor.grad_fn for tensor in tensors]
        while pending:
            node = pending.pop()
            if node is not None and node not in self._nodes:
                self._nodes[node] = label
                pending += [following for following, _ in node.next_functions]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        packet = getattr(func, "overloadpacket", func)
        formula = flop_registry.get(packet)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs) if hasattr(func, "decompose") else NotImplemented
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        if formula is not None:
            self._count(packet, formula, args, kwargs, result)
        elif (name := str(getattr(packet, "__name__", packet))).startswith(_UNCOUNTED):
            self._without_formula[name] += 1
        return result

    def _count(self, packet: Any, formula: Any, args: Any, kwargs: Any, result: Any) -> None:
        flops = int(formula(*args, **kwargs, out_val=result))
        if _graph_task() == -1:
            self.costs[self.labels.current] += Cost(forward_flops=flops)
            return
        self.has_backward = True
        node = _autograd_node()
        weight = 0
        if packet is torch.ops.aten.convolution_backward:
            for_input = [args[10][0], False, False]
            weight = flops - int(formula(*args[:10], for_input, **kwargs, out_val=result))
        elif node is not None and _is_of_a_weight(node, args):
            weight = flops
        label = self._nodes.get(node, self.labels.current)
        self.costs[label] += Cost(input_gradient_flops=flops - weight, weight_gradient_flops=weight)


_UNCOUNTED = ("_scaled_dot_product", "mkldnn_rnn", "_cudnn_rnn", "mkldnn_linear", "_fused_rms", "_grouped_mm")
"""Beginnings of the names of operations that multiply matrices inside."""


def _is_of_a_weight(node: Any, operands: Sequence[Any]) -> bool:
    """Return True if a product in the backward of a product gives the gradient of a parameter."""
    factors = next((list(f) for name, f in _FACTORS.items() if node.name().startswith(name)), [])
    memory = {pointer for operand in tensors_in(operands) for pointer, _ in _memory(operand)}
    for name, other in factors:
        with suppress(Exception):  # it is kept only if the other needs a gradient, and a checkpoint gives it once
            saved = getattr(node, f"_saved_{name}")
            if saved is not None and memory.intersection(p for p, _ in _memory(saved)):
                return _is_a_parameter(node.next_functions[other][0])
    sizes = [getattr(node, f"_saved_{name}_sym_sizes", None) for name, _ in factors]
    if len(sizes) != 2 or sizes[0] is None or sizes[1] is None or sizes[0][-2] == sizes[1][-1]:
        return False
    # the gradient of the second factor is a sum over the rows of the first
    position = factors[0][1] if operands[0].shape[-1] == sizes[0][-2] else factors[1][1]
    return _is_a_parameter(node.next_functions[position][0])


def _is_a_parameter(node: Any) -> bool:
    """Return True if a node leads to one leaf, and only changes shape or type on the way."""
    while node is not None and not hasattr(node, "variable"):
        if not node.name().startswith(_SAME_VALUES) or len(node.next_functions) != 1:
            return False
        node = node.next_functions[0][0]
    return node is not None


def _backward(roots: Sequence[Tensor], counted: _Operations, *, has_run: bool) -> None:
    """Run backward, which leaves gradients; count it unless the run itself went backward."""
    live = [root for root in roots if root.requires_grad]
    with ExitStack() as counting:
        if not has_run:
            counting.enter_context(counted)
        if live:
            torch.autograd.backward(live, [torch.ones_like(root) for root in live])


# -- the state of optimizers -------------------------------------------------------------------------------------------


def _states(replay: Replay) -> tuple[dict[ParameterKey, int], list[str]]:
    """Return parameter → bytes of state that one step allocates, and notes."""
    sizes: dict[ParameterKey, int] = defaultdict(int)
    notes = []
    for optimizer in replay.optimizers.values():
        failure = ""
        for closure in ((), (lambda: torch.zeros(()),)):
            try:
                found = _state_of(optimizer, closure)
            except Exception as error:
                failure = failure or f"{type(error).__name__}: {error}"
                continue
            for key, size in found.items():
                sizes[key] += size
            if closure:
                notes.append(f"{type(optimizer).__name__} steps with a closure: its state is that after one evaluation")
            break
        else:
            notes.append(f"the state of {type(optimizer).__name__} is not measured: its step raised {failure}")
    return sizes, notes


def _state_of(optimizer: Optimizer, arguments: Sequence[Any]) -> dict[ParameterKey, int]:
    """Take a step of a copy of an optimizer whose parameters and state are its own."""
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    shadows: dict[int, Any] = {}
    for key, tensor in held.items():
        with torch.no_grad():
            shadows[key] = torch.zeros_like(tensor.detach())
        shadows[key].requires_grad_(tensor.requires_grad)
        if tensor.grad is not None:
            shadows[key].grad = tensor.grad.detach().clone()
    twin: Any = object.__new__(type(optimizer))
    own = {
        name: value for name, value in vars(optimizer).items() if name not in ("step", "state") and "hook" not in name
    }
    vars(twin).update(copy.deepcopy(own, dict(shadows)))
    twin.state = defaultdict(dict)
    with torch.no_grad():
        inspect.unwrap(type(optimizer).step)(twin, *arguments)
    keys = {id(shadow): key for key, shadow in shadows.items()}
    seen = {
        pointer
        for shadow in shadows.values()
        for t in (shadow, shadow.grad)
        if t is not None
        for pointer, _ in _memory(t)
    }
    sizes: dict[ParameterKey, int] = defaultdict(int)
    inner = [value.state for value in vars(twin).values() if isinstance(value, Optimizer)]
    for state in [twin.state, *inner]:
        for owner, content in state.items():
            for tensor in tensors_in([content, *_parts(content)]):
                for pointer, size in _memory(tensor):
                    if pointer not in seen:
                        seen.add(pointer)
                        sizes[ParameterKey(keys.get(id(owner), 0))] += size
    return sizes


def _parts(content: Any) -> list[Any]:
    """Return the attributes of objects in the state of a parameter."""
    values = content.values() if isinstance(content, Mapping) else ()
    return [vars(v) for v in values if hasattr(v, "__dict__") and not isinstance(v, Tensor)]
