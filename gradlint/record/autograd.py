"""What autograd itself says: which parameters a backward from the loss would reach."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

_ZERO = ("Round", "Floor", "Ceil", "Sign", "Sgn", "Trunc", "Normal", "Bernoulli", "Poisson")
_ZERO_NODES = frozenset(f"{name}Backward{n}" for name in _ZERO for n in range(6)) | {
    f"{name}Backward" for name in _ZERO
}
"""Nodes of autograd whose gradient is zero everywhere (torch's derivatives.yaml: ``self: zeros_like(grad)``)."""


@dataclass(frozen=True)
class Verdict:
    """Tensors (by identity) that gradient returns to."""

    reached: frozenset[int]
    zero: frozenset[int]
    """Reached, but only through operations whose gradient is zero everywhere."""
    proven: str
    """``walk`` of grad_fn, or ``backward`` where custom Functions made the walk ambiguous."""
    failure: str = ""
    """What a backward raised, if one was needed and raised."""
    dropped: tuple[tuple[int, frozenset[int]], ...] = ()
    """(identity of a custom Function's node, leaves behind an input that its backward gave None for)."""


def gradient(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> Verdict:
    """Which of `parameters` a backward from all `roots` reaches. Nothing of the user's is changed but ``.grad``,
    which is put back."""
    sure, _ = _walk(roots, zero=False, custom=False)
    live, customs = _walk(roots, zero=False, custom=True)
    everything, _ = _walk(roots, zero=True, custom=True)
    zero = everything - live
    ids = [id(p) for p in parameters if p.requires_grad]
    unsure = [p for p in parameters if p.requires_grad and id(p) not in sure and id(p) not in zero]
    if not customs or not unsure:
        return Verdict(frozenset(i for i in ids if i in live), frozenset(zero), "walk")
    asked = {id(p) for p in unsure}  # a Function may rightly give None for what is not asked for
    hidden = any(id(p) not in live for p in unsure)
    drops: list[tuple[tuple[Any, int], frozenset[int]]] = []
    try:
        with _watching(roots, drops):
            proven = _backward(roots, unsure) if hidden else _grad(roots, unsure)
    except Exception as error:  # the user's backward may raise anything
        return Verdict(frozenset(i for i in ids if i in live), frozenset(zero), "walk", f"{type(error).__name__}: {error}")
    # what a custom Function further up makes of a missing gradient is zeros: nothing that trains
    behind = everything - _walk(roots, zero=True, custom=True, without=frozenset(e for e, _ in drops))[0]
    reached = {i for i in ids if i in sure} | (proven - behind)
    dropped = tuple((id(node), leaves & asked) for (node, _), leaves in drops)
    return Verdict(frozenset(reached), frozenset(zero - reached), "backward", dropped=dropped)


@contextlib.contextmanager
def _watching(roots: Sequence[Tensor], drops: list[tuple[tuple[Any, int], frozenset[int]]]) -> Iterator[None]:
    """Note which custom Functions give None, in the backward that runs meanwhile, for which input that needs grad, and
    the leaves behind it."""

    def watch(node: Any) -> Any:
        def hook(inputs: Sequence[Tensor | None], outputs: Sequence[Tensor | None]) -> None:
            if all(g is None for g in outputs):
                return
            for number, (gradient, (following, _)) in enumerate(zip(inputs, node.next_functions, strict=False)):
                if gradient is None and following is not None:
                    drops.append(((node, number), frozenset(id(leaf) for leaf in _leaves_behind([following]))))

        return node.register_hook(hook)

    nodes = [n for n in _nodes([r.grad_fn for r in roots]) if isinstance(n, torch.autograd.function.BackwardCFunction)]
    handles = [watch(node) for node in nodes]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _nodes(starts: Iterable[Any]) -> list[Any]:
    pending = [n for n in starts if n is not None]
    seen = dict.fromkeys(pending)
    while pending:
        for following, _ in pending.pop().next_functions:
            if following is not None and following not in seen:
                seen[following] = None
                pending.append(following)
    return list(seen)


def _leaves_behind(starts: Iterable[Any]) -> list[Tensor]:
    return [v for n in _nodes(starts) if isinstance(v := getattr(n, "variable", None), Tensor)]


def _walk(
    roots: Iterable[Tensor], *, zero: bool, custom: bool, without: frozenset[tuple[Any, int]] = frozenset()
) -> tuple[set[int], bool]:
    """Identities of the leaves that grad_fn leads to, through zero-gradient and custom nodes or not and not along some
    edges (node, input); and whether a custom Function was met."""
    found: set[int] = set()
    pending: list[Any] = []
    met = False
    for root in roots:
        if root.grad_fn is not None:
            pending.append(root.grad_fn)
        elif root.requires_grad:
            found.add(id(root))
    seen = set(pending)
    while pending:
        node = pending.pop()
        variable = getattr(node, "variable", None)
        if isinstance(variable, Tensor):
            found.add(id(variable))
            continue
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            met = True
            if not custom:
                continue
        elif not zero and (node.name() in _ZERO_NODES or _rounds(node)):
            continue
        for number, (following, _) in enumerate(node.next_functions):
            if following is not None and following not in seen and (node, number) not in without:
                seen.add(following)
                pending.append(following)
    return found, met


def _rounds(node: Any) -> bool:
    """Whether a node is a division that rounds its result (``torch.div(..., rounding_mode=...)``)."""
    return node.name().startswith("DivBackward") and getattr(node, "_saved_rounding_mode", None) is not None


def _seeds(roots: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    live = [r for r in roots if r.requires_grad]
    return live, [torch.ones_like(r) for r in live]


def _grad(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> set[int]:
    live, seeds = _seeds(roots)
    grads = torch.autograd.grad(live, list(parameters), seeds, retain_graph=True, allow_unused=True)
    return {id(p) for p, g in zip(parameters, grads, strict=True) if g is not None}


def _backward(roots: Sequence[Tensor], parameters: Sequence[Tensor]) -> set[int]:
    """A real backward: the only way to see parameters that a custom Function holds inside (reentrant checkpoint)."""
    live, seeds = _seeds(roots)
    leaves = {id(p): p for p in parameters}
    for node_leaf in _leaves_behind([r.grad_fn for r in live]):
        leaves.setdefault(id(node_leaf), node_leaf)
    before = {key: (p, p.grad) for key, p in leaves.items()}
    hooks = {key: getattr(p, "_post_accumulate_grad_hooks", None) for key, p in leaves.items()}
    try:
        for key, (p, _) in before.items():
            p.grad = None
            if hooks[key]:
                p._post_accumulate_grad_hooks = None  # type: ignore[attr-defined]
        torch.autograd.backward(live, seeds, retain_graph=True)
        return {id(p) for p in parameters if p.grad is not None}
    finally:
        for key, (p, grad) in before.items():
            p.grad = grad
            if hooks[key]:
                p._post_accumulate_grad_hooks = hooks[key]  # type: ignore[attr-defined]
