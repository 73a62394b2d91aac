"""The size of the gradients, found by training for a few steps; all of the user's is put back bit for bit.

That a gradient returns does not say that it is anything but zero: behind a layer that is zero and stays zero, or a
softmax over one element, it is zero in every step.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradlint.recorder.facts.autograd import own_gradients
from gradlint.recorder.facts.finiteness import FiniteWatch
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import is_readable
from gradlint.traces.ids import NO_SITE, ParameterIndex, SiteId
from gradlint.traces.op_families import PRODUCTS, SOFTMAX
from gradlint.traces.trace import Gradient, GradientSizes, Parameter, Stop, Trace
from gradlint.traces.training import Spoiling

if TYPE_CHECKING:
    from gradlint.recorder.replay import Replay

STEPS = 3
"""Steps that are always taken: what starts behind a zero (LoRA, zero convolutions) gets a gradient by then."""
MOST_STEPS = 8
"""Steps that are taken where a gradient is still zero: layers that open one after the other, luck in routing."""
DRAWS = 3
"""Number of random sign patterns tried on gradients that are still zero."""
SMALL = 1e-6
"""Size of a gradient relative to the median of all below which it may be what rounding leaves of zero."""
SMALLER = 1e-5
"""What is left of such a gradient in double precision, at most: its rounding is 1e9 times finer."""
RATE = 1e-2
"""How far a step moves a parameter, relative to its own size."""


_NO_REPLAY = "the step is not run again: give 'inputs' and 'loss' beside 'step'"


def measure(trace: Trace, replay: Replay | None, judged: Iterable[ParameterIndex]) -> GradientSizes:
    """Train the setup for some steps and return the size of each parameter's gradient.

    Each step moves a parameter by a fixed part of its size against its gradient: whether something opens up must not
    depend on a learning rate that warms up from zero. Groups of learning rate zero without a scheduler stay.

    Args:
        trace: a recording.
        replay: runs its setup again; None where that is not possible.
        judged: indices of the parameters to measure.

    Returns:
        What was measured; with `failure` set where a run or its backward raised.
    """
    if replay is None or not trace.roots:
        return GradientSizes(failure=_NO_REPLAY if trace.setup.has_step else "no forward was run")
    parameters = [p for p in (trace.parameters[i] for i in sorted(judged)) if p.index in trace.reached]
    sizes: dict[ParameterIndex, list[float | None]] = {p.index: [] for p in parameters}
    stops: dict[ParameterIndex, Stop] = {}
    spoilt: dict[ParameterIndex, Spoiling] = {}
    unlucky: set[ParameterIndex] = set()
    rounded: set[ParameterIndex] = set()
    loss_is_flat = False
    with replay.preserving() as preserved:
        preserved.save_all()
        tensors = list(replay.tensors.values())
        try:
            for step in range(MOST_STEPS):
                if step >= STEPS and all(any(magnitudes) for magnitudes in sizes.values()):
                    break
                with own_gradients(tensors):
                    roots = replay.live(step)
                    _backward(roots)
                    is_finite = _are_finite(roots)
                    for p in parameters:
                        size = _size(replay.tensors[p.key].grad)
                        # comparisons with NaN are false, so what lies behind a clamp or a maximum gets zero
                        sizes[p.index].append(size if size or is_finite else None)
                    if not step and trace.loss_given and any(m[0] == float("inf") for m in sizes.values()):
                        spoilt = _spoilt(replay, parameters, tensors)
                    _step(_moving(trace, replay))
            rounded = _rounded(replay, parameters, {i: magnitudes[-1] for i, magnitudes in sizes.items()}, tensors)
            zero = [p for p in parameters if not any(sizes[p.index]) and None not in sizes[p.index]]
            if zero:
                with own_gradients(tensors):
                    stops = _stops(replay, zero)
                unlucky = _nonzero_with_other_signs(trace, replay, zero, tensors)
                loss_is_flat = len(zero) == len(parameters) and not _loss_can_move(trace, replay)
        except Exception as error:  # the user's code, run with other weights, may raise anything
            return GradientSizes(failure=f"{type(error).__name__}: {error}")
    steps = max((len(magnitudes) for magnitudes in sizes.values()), default=0)
    gradients = {
        i: Gradient(tuple(magnitudes), stops.get(i), i in unlucky, i in rounded) for i, magnitudes in sizes.items()
    }
    return GradientSizes(steps, gradients, spoilt, loss_is_flat)


def _moving(trace: Trace, replay: Replay) -> list[Tensor]:
    """Return the tensors of the parameters that training moves."""
    tensors = [(p, replay.tensors[p.key]) for p in trace.parameters]
    moving = [t for p, t in tensors if t.requires_grad and t.is_floating_point() and _is_held(trace, p)]
    return [t for t in moving if is_readable(t)]


def _is_held(trace: Trace, parameter: Parameter) -> bool:
    groups = [trace.optimizers[number].groups[index] for number, index in parameter.groups]
    return any(g.lr != 0 or g.scheduled for g in groups) if trace.optimizers else True


def _backward(roots: Sequence[Tensor]) -> None:
    """Run backward from a scalar loss, or from outputs in a fixed random direction.

    The direction is random because the sum of some outputs, of a softmax for example, has no gradient. Several losses
    have different weights, because those of a GAN may cancel each other.
    """
    live = [r for r in roots if r.requires_grad]
    generator = torch.Generator().manual_seed(0)
    gradients = []
    for number, root in enumerate(live):
        plain = root.real.dtype if root.is_complex() else root.dtype
        noise = torch.tensor(1.0 + number / 3) if root.dim() == 0 else torch.randn(root.shape, generator=generator)
        gradients.append(noise.to(root.device, plain).to(root.dtype).expand_as(root))
    if live:
        torch.autograd.backward(live, gradients)


def _are_finite(roots: Iterable[Tensor]) -> bool:
    """Return True if no entry of a loss or an output is NaN or infinite."""
    return all(bool(root.detach().isfinite().all()) for root in roots if is_readable(root))


def _size(gradient: Tensor | None) -> float | None:
    """Return the largest entry of a gradient; None without a gradient.

    A gradient that is not finite, or whose memory was freed, is not zero.
    """
    if gradient is None:
        return None
    if not is_readable(gradient):
        return float("inf")
    dense = gradient.to_dense() if gradient.layout is not torch.strided else gradient
    size = float(dense.abs().max()) if dense.numel() else 0.0
    return size if size == size else float("inf")


def _step(tensors: Iterable[Tensor]) -> None:
    with torch.no_grad():
        for tensor in tensors:
            size = _size(tensor.grad)
            if not size or size == float("inf") or tensor.grad is None:
                continue
            alias = tensor.data  # has a version counter of its own: the user's tensor does not look written to
            gradient = tensor.grad.to_dense() if tensor.grad.layout is not torch.strided else tensor.grad
            largest = max(float(alias.abs().max()), 0.1)
            alias.sub_((gradient / size).to(alias.dtype), alpha=RATE * largest)


def _rounded(
    replay: Replay,
    parameters: Sequence[Parameter],
    sizes: Mapping[ParameterIndex, float | None],
    tensors: Sequence[Tensor],
) -> set[ParameterIndex]:
    """Return the parameters whose gradient is small, and smaller by far in double precision.

    None where the user's code cannot be run in double precision.
    """
    bound = SMALL * statistics.median([size for size in sizes.values() if size] or [0.0])
    small = [p for p in parameters if 0 < (sizes[p.index] or 0) < bound]
    if not small:
        return set()
    try:
        with own_gradients(tensors):
            _backward(replay.live(watch=_InDouble()))
            finer = {p.index: _size(replay.tensors[p.key].grad) for p in small}
    except Exception:
        return set()
    return {i for i, size in finer.items() if size is not None and size < SMALLER * (sizes[i] or 0)}


class _InDouble(TorchFunctionMode):
    """Gives each call its operands of single precision in double precision, but for tensors that it writes to."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        writes = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__" or "out" in kwargs
        if writes or name in ("__get__", "__set__"):
            return func(*args, **kwargs)
        return func(*map(_double, args), **{key: _double(value) for key, value in kwargs.items()})


def _double(value: Any) -> Any:
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(map(_double, value))
    if isinstance(value, Tensor) and value.dtype is torch.float32:
        with without_torch_function():
            return value.double()
    return value


def _nonzero_with_other_signs(
    trace: Trace, replay: Replay, zero: Sequence[Parameter], tensors: Sequence[Tensor]
) -> set[ParameterIndex]:
    """Return the parameters that get a gradient under other weights of the same sizes.

    A narrow layer may have only inactive units under the current weights. Biases and zero parameters keep their values.
    """
    nonzero: set[ParameterIndex] = set()
    weights = [tensor.data for tensor in _moving(trace, replay) if tensor.dim() > 1]
    generator = torch.Generator().manual_seed(2)
    for number in range(DRAWS):
        for weight in weights:
            signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
            weight.mul_(signs.to(weight.device))
        with own_gradients(tensors):
            _backward(replay.live(number))
            nonzero |= {p.index for p in zero if _size(replay.tensors[p.key].grad)}
    return nonzero


def _loss_can_move(trace: Trace, replay: Replay) -> bool:
    """Return True if other values of all parameters together, small or large, change the loss.

    The loss is then flat only at the current values.
    """
    with torch.no_grad():
        before = [r.clone() for r in replay.live()]
        tensors = {id(tensor): tensor for tensor in _moving(trace, replay)}
        for size in (0.01, 1.0, 10.0):
            generator = torch.Generator().manual_seed(1)
            for tensor in tensors.values():
                noise = torch.randn(tensor.shape, generator=generator)
                tensor.data.add_(noise.to(tensor.device, tensor.dtype), alpha=size)
            for old, new in zip(before, replay.live(), strict=False):
                if old.shape != new.shape or not torch.allclose(old, new, rtol=1e-5, atol=1e-7):
                    return True
    return False


# -- where a gradient becomes NaN or infinite --------------------------------------------------------------------------


def _spoilt(
    replay: Replay, parameters: Sequence[Parameter], tensors: Sequence[Tensor]
) -> dict[ParameterIndex, Spoiling]:
    """Return parameter → the call that makes its gradient NaN or infinite from a finite loss."""
    places = _Places(replay.site)
    with own_gradients(tensors):
        roots = [r for r in replay.live(watch=places) if r.requires_grad]
        with FiniteWatch(roots) as watch:
            _backward(roots)
        for parameter in parameters:
            gradient = replay.tensors[parameter.key].grad
            if gradient is not None:
                watch.arrive(parameter.key, gradient)
    unknown = Spoiling("", NO_SITE)
    calls = {key: places.made.get(node) for key, node in watch.spoilt().items()}
    return {
        p.index: Spoiling(call.name, call.site) if (call := calls[p.key]) is not None else unknown
        for p in parameters
        if p.key in calls
    }


# -- where a gradient becomes zero ------------------------------------------------------------------------------------


class _Places(TorchFunctionMode):
    """Remembers for each node of autograd the call that made it."""

    def __init__(self, site: Callable[[Any], SiteId]) -> None:
        super().__init__()
        self._site = site
        self.made: dict[Any, Stop] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one call."""
        result = func(*args, **(kwargs or {}))
        for output in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(output, Tensor) and output.grad_fn is not None and output.grad_fn not in self.made:
                self._name(output, func, args, kwargs or {})
        return result

    def _name(self, output: Tensor, func: Any, args: Any, kwargs: Any) -> None:
        name = str(getattr(func, "__name__", func))
        with torch.no_grad(), without_torch_function():
            operands = [a for a in (*args, *kwargs.values()) if isinstance(a, Tensor) and a.is_floating_point()]
            zeros = len([a for a in operands[:2] if _is_zero(a)]) == 2
            factors = [a for a in args if not isinstance(a, str)][:2]
            weighted = name in PRODUCTS and any(_is_constant_zero(a) for a in factors)
        single = (name in SOFTMAX or name == "scaled_dot_product_attention") and _single(name, output, args, kwargs)
        stop = Stop(name, self._site(sys._getframe(2)), single, zeros, weighted, len(self.made))
        pending = [output.grad_fn]
        while pending:
            node = pending.pop()
            if node is not None and node not in self.made and not hasattr(node, "variable"):
                self.made[node] = stop
                pending += [following for following, _ in node.next_functions]


def _is_zero(tensor: Tensor) -> bool:
    """Return True if a tensor is known to be zero in every entry."""
    return is_readable(tensor) and not bool(tensor.count_nonzero())


def _is_constant_zero(factor: Any) -> bool:
    if isinstance(factor, (list, tuple)):
        return any(_is_constant_zero(f) for f in factor if isinstance(f, Tensor))
    if isinstance(factor, Tensor):
        return not factor.requires_grad and _is_zero(factor)
    return isinstance(factor, (int, float)) and factor == 0


def _single(name: str, output: Tensor, args: Any, kwargs: Any) -> bool:
    """Return True if a softmax normalizes over one element."""
    if name == "scaled_dot_product_attention":
        key = args[1] if len(args) > 1 else kwargs.get("key")
        return isinstance(key, Tensor) and key.dim() > 1 and key.shape[-2] == 1
    dim = args[1] if len(args) > 1 else kwargs.get("dim")
    return isinstance(dim, int) and output.dim() > 0 and output.shape[dim] == 1


def _stops(replay: Replay, parameters: Sequence[Parameter]) -> dict[ParameterIndex, Stop]:
    """Return, for each parameter, the first call through which its gradient becomes zero."""
    places = _Places(replay.site)
    roots = [r for r in replay.live(watch=places) if r.requires_grad]
    flows: dict[tuple[Any, int], bool] = {}
    reverse: dict[Any, list[tuple[Any, int]]] = {}
    leaves: dict[int, Any] = {}
    pending: list[Any] = [r.grad_fn for r in roots if r.grad_fn is not None]
    seen = set(pending)
    handles = []
    while pending:
        node = pending.pop()
        handles.append(node.register_hook(_noting(node, flows)))
        variable = getattr(node, "variable", None)
        if variable is not None:
            leaves[id(variable)] = node
        for number, (following, _) in enumerate(node.next_functions):
            if following is not None:
                reverse.setdefault(following, []).append((node, number))
                if following not in seen:
                    seen.add(following)
                    pending.append(following)
    try:
        _backward(roots)
    finally:
        for handle in handles:
            handle.remove()
    by_parameter: dict[ParameterIndex, Stop] = {}
    for parameter in parameters:
        stops = list(_before(leaves.get(parameter.key), reverse, flows, places.made))
        if stops:
            by_parameter[parameter.index] = min(stops, key=lambda s: (s.weighted, s.order))
    return by_parameter


def _noting(node: Any, flows: dict[tuple[Any, int], bool]) -> Callable[[Any, Any], None]:
    """Return a hook that notes which inputs of a node get a zero gradient from a nonzero one."""

    def hook(gradients: Any, received: Any) -> None:
        alive = any(g is not None and not _is_zero(g) for g in received)
        for number, gradient in enumerate(gradients):
            flows[node, number] = alive and (gradient is None or _is_zero(gradient))

    return hook


def _before(
    leaf: Any, reverse: dict[Any, list[tuple[Any, int]]], flows: dict[tuple[Any, int], bool], stops: dict[Any, Stop]
) -> Iterator[Stop]:
    pending, seen = [leaf], {leaf}
    while pending:
        for node, number in reverse.get(pending.pop(), ()):
            if flows.get((node, number)) and node in stops:
                yield stops[node]
            elif node not in seen:
                seen.add(node)
                pending.append(node)
