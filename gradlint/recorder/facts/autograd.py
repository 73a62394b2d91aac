"""The verdict of autograd: the parameters that a backward from the loss reaches."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from gradlint.restore.tensors import is_readable
from gradlint.traces.op_families import ZERO_GRADIENT_NODES

_ZERO_NODES = frozenset(ZERO_GRADIENT_NODES)
"""Stems of the nodes whose gradient is zero everywhere, or undefined."""
_ERASED = frozenset("Zero Fill Copy Uniform Normal Cauchy Exponential Geometric LogNormal Random".split())
"""Stems of the nodes of writes that leave nothing of the old content, their first input."""
_SECOND_ZERO = frozenset("Copysign Nextafter".split())
"""Stems of the nodes of two inputs whose gradient is zero everywhere for the second."""
_STEM = re.compile(r"(?:torch::autograd::)?(?:Foreach)?(\w+?)(?:Backwards?\d*)?")
"""The name of a node in the autograd graph: ``RoundBackward1``, ``torch::autograd::CopyBackwards``."""


@dataclass(frozen=True)
class Verdict:
    """Tensors (by identity) that gradient returns to."""

    reached: frozenset[int] = frozenset()
    zero: frozenset[int] = frozenset()
    """Reached, but only through operations whose gradient is zero everywhere."""
    failure: str = ""
    """The error of a backward, if one was needed and raised."""
    dropped: frozenset[tuple[Any, int]] = frozenset()
    """(class of a custom Function, number of a tensor argument) whose backward gave None where gradient was due."""

    def renamed(self, identities: Mapping[int, int]) -> Verdict:
        """Return the verdict with some tensors replaced by others."""
        reached, zero = (frozenset(identities.get(i, i) for i in part) for part in (self.reached, self.zero))
        return replace(self, reached=reached, zero=zero)


@dataclass
class Passage:
    """The ways of a backward that user code runs, as far as gradient may be lost on them."""

    suspects: frozenset[int] = frozenset()
    """Leaves (by identity) that no way of torch's own ops with a gradient other than zero leads to."""
    nonzero: set[int] = field(default_factory=set)
    """Suspects that got a gradient other than zero all the same."""
    zero: frozenset[int] = frozenset()
    """Leaves that only ways without gradient, or with a gradient of zero everywhere, lead to."""
    dropped: frozenset[tuple[Any, int]] = frozenset()
    """As `Verdict.dropped`."""


NOTHING = Verdict()
"""The verdict where no backward was tried."""


def gradient(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> Verdict:
    """Return which of `parameters` a backward from all `roots` reaches.

    It changes nothing of the user's but ``.grad``, which is put back.
    """
    trainable = [p for p in parameters if p.requires_grad]
    ids = {id(p) for p in trainable}
    everything, zeros, customs = _walk(roots, zero=True, custom=True)
    if not zeros and not customs:
        return Verdict(frozenset(ids & everything), frozenset())
    sure = surely_reached(roots)
    live = _walk(roots, zero=False, custom=True)[0]
    zero = everything - live
    doubtful = zero - _walk(roots, zero=True, custom=False)[0]
    unsure = [p for p in trainable if id(p) not in sure | (zero - doubtful)]
    if not unsure or not (customs or doubtful):
        return Verdict(frozenset(ids & live), frozenset(zero))
    try:
        proven, edges = _proven(roots, unsure, hidden=any(id(p) not in everything for p in unsure))
    except Exception as error:  # the user's backward may raise anything
        return Verdict(frozenset(ids & live), frozenset(zero), f"{type(error).__name__}: {error}")
    flowing = {key for key, gradient in proven.items() if key in doubtful and nonzero(gradient)}
    zero -= {key for key in doubtful if key not in proven or key in flowing}
    # a custom Function further up turns a missing gradient into zeros: nothing that trains
    behind = everything - _walk(roots, zero=True, custom=True, without=edges)[0] if edges else set()
    behind -= {key for key in behind if key in proven and nonzero(proven[key])}
    reached = (ids & sure) | (proven.keys() - zero - behind)
    return Verdict(frozenset(reached), frozenset(zero - reached), dropped=_described(edges))


@contextmanager
def watching(roots: Sequence[Tensor]) -> Iterator[Passage]:
    """Watch the backward from `roots` that runs inside; the passage is complete afterwards."""
    everything, zeros, customs = _walk(roots, zero=True, custom=True)
    passage = Passage()
    if not zeros and not customs:
        yield passage
        return
    passage.suspects = frozenset(everything - surely_reached(roots))
    edges: set[tuple[Any, int]] = set()
    live = _walk(roots, zero=False, custom=True)[0]  # now: backward releases what some nodes have saved
    handles = [node.register_hook(_noting(node, edges)) for node in _custom_nodes(roots)] if customs else []
    try:
        yield passage
    finally:
        for handle in handles:
            handle.remove()
    if edges:
        live &= _walk(roots, zero=True, custom=True, without=edges)[0]
    passage.zero = frozenset(everything - live)
    passage.dropped = _described(edges)


def _described(edges: Iterable[tuple[Any, int]]) -> frozenset[tuple[Any, int]]:
    """Return the edges of custom nodes by the class of the Function."""
    return frozenset((getattr(type(node), "_forward_cls", None), number) for node, number in edges)


def _proven(
    roots: Sequence[Tensor], parameters: Sequence[Tensor], *, hidden: bool
) -> tuple[Mapping[int, Tensor], set[tuple[Any, int]]]:
    """Run a backward; return the gradients that arrive, and the edges without gradient.

    An edge is without gradient where a custom Function returns None. `hidden` is True if a parameter is in no node of
    the graph, and only a real backward can show that it is reached.
    """
    edges: set[tuple[Any, int]] = set()
    handles = [node.register_hook(_noting(node, edges)) for node in _custom_nodes(roots)]
    try:
        proven = None if hidden else _grad(roots, parameters)
        return _backward(roots, parameters) if proven is None else proven, edges
    finally:
        for handle in handles:
            handle.remove()


def nodes_behind(roots: Iterable[Tensor]) -> Iterator[Any]:
    """Yield every node of the autograd graph behind the roots, once."""
    pending: list[Any] = list({t.grad_fn: None for t in roots if t.grad_fn is not None})
    seen = set(pending)
    while pending:
        node = pending.pop()
        yield node
        for following, _ in node.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)


def leaves(roots: Iterable[Tensor]) -> list[Tensor]:
    """Return the leaf tensors behind the roots, which may be leaves themselves."""
    roots = list(roots)
    roots_themselves = [t for t in roots if t.grad_fn is None and t.requires_grad]
    variables = (getattr(node, "variable", None) for node in nodes_behind(roots))
    return roots_themselves + [v for v in variables if isinstance(v, Tensor)]


def _custom_nodes(roots: Iterable[Tensor]) -> list[Any]:
    return [node for node in nodes_behind(roots) if isinstance(node, torch.autograd.function.BackwardCFunction)]


def _noting(node: Any, dropped: set[tuple[Any, int]]) -> Callable[[Any, Any], None]:
    """Return a hook that notes the inputs for which a custom Function returned None.

    Only calls whose own output has a gradient count.
    """
    following = [n for n, _ in node.next_functions]

    def hook(gradients: Any, received: Any) -> None:
        if any(g is not None for g in received):
            dropped.update((node, i) for i, g in enumerate(gradients) if g is None and following[i] is not None)

    return hook


def _walk(
    roots: Iterable[Tensor], *, zero: bool, custom: bool, without: Container[tuple[Any, int]] = ()
) -> tuple[set[int], bool, bool]:
    """Return the ids of the leaves behind the roots, and two facts about the nodes passed.

    The facts are whether any has a zero gradient, and whether any is of a custom Function.

    Args:
        roots: the tensors to start from.
        zero: whether the walk passes nodes with a zero gradient.
        custom: whether it passes nodes of custom Functions.
        without: edges (node, number of the input) that it does not take.
    """
    reached: set[int] = set()
    pending: list[Any] = []
    met_zero = met_custom = False
    for root in roots:
        if root.grad_fn is not None:
            pending.append(root.grad_fn)
        elif root.requires_grad:
            reached.add(id(root))
    seen = set(pending)
    while pending:
        node = pending.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            reached.add(id(variable))
            continue
        flat: Container[int] = ()
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            met_custom = True
            if not custom:
                continue
        elif flat := _zero_inputs(node):
            met_zero = True
        for number, (following, _) in enumerate(node.next_functions):
            if following is None or following in seen or (node, number) in without:
                continue
            if zero or not flat or number not in flat:
                seen.add(following)
                pending.append(following)
    return reached, met_zero, met_custom


def surely_reached(roots: Sequence[Tensor]) -> set[int]:
    """Return the identities of the leaves that gradient reaches through torch's own ops alone."""
    return _walk(roots, zero=False, custom=False)[0]


def _zero_inputs(node: Any) -> Container[int]:
    """Return the numbers of the inputs for which a node's gradient is zero everywhere."""
    stem = _stem(node.name())
    if stem in _ZERO_NODES:
        return () if stem in ("Angle", "Sgn") and _is_complex(node) else _ALL
    if stem == "Div":  # rounding division, ``torch.div(..., rounding_mode=...)``
        return _ALL if getattr(node, "_saved_rounding_mode", None) is not None else ()
    if stem in _ERASED:
        return _FIRST
    return _SECOND if stem in _SECOND_ZERO else ()


_ALL, _FIRST, _SECOND = range(1 << 30), range(1), range(1, 2)


@functools.lru_cache(maxsize=1024)
def _stem(name: str) -> str:
    match = _STEM.fullmatch(name)
    return match[1] if match is not None else name


def _is_complex(node: Any) -> bool:
    """Return True if the input of a node is complex, or if the graph no longer holds it."""
    try:
        return bool(node._saved_self.is_complex())
    except (AttributeError, RuntimeError):
        return True


def nonzero(grad: Tensor) -> bool:
    """Return True if a gradient is not zero everywhere, or if that is unknown."""
    try:
        if not is_readable(grad):
            return True
        plain = grad.detach()
        if plain.is_sparse:
            plain = plain._values()
        return bool(plain.any())
    except (RuntimeError, NotImplementedError):
        return True


def _seeds(roots: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    live = [r for r in roots if r.requires_grad]
    return live, [torch.ones_like(r) for r in live]


def _grad(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> Mapping[int, Tensor] | None:
    """Return parameter → gradient of those that a backward to them alone reaches.

    None if it is refused, as by reentrant checkpoints.
    """
    live, seeds = _seeds(roots)
    try:
        grads = torch.autograd.grad(live, list(parameters), seeds, retain_graph=True, allow_unused=True)
    except RuntimeError:
        return None
    return {id(p): g for p, g in zip(parameters, grads, strict=True) if g is not None}


def _backward(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> Mapping[int, Tensor]:
    """Return parameter → gradient of those that a real backward reaches.

    Only this shows parameters that a custom Function holds inside (reentrant checkpoint).
    """
    live, seeds = _seeds(roots)
    touched = {id(p): p for p in parameters}
    for leaf in leaves(live):
        touched.setdefault(id(leaf), leaf)
    with own_gradients(touched.values()):
        torch.autograd.backward(live, seeds, retain_graph=True)
        return {id(p): p.grad for p in parameters if p.grad is not None}


@contextmanager
def own_gradients(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Clear ``.grad`` and the hooks that step once a gradient exists; restore both at exit."""
    saved = [(t, t.grad, getattr(t, "_post_accumulate_grad_hooks", None)) for t in tensors if t.is_leaf]
    try:
        for tensor, _, hooks in saved:
            tensor.grad = None
            if hooks:
                tensor._post_accumulate_grad_hooks = OrderedDict()  # None would leave the old ones in place
        yield
    finally:
        for tensor, grad, hooks in saved:
            tensor.grad = grad
            if hooks:
                tensor._post_accumulate_grad_hooks = hooks
