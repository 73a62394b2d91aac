"""Gradients that become NaN or infinite in a backward pass, and the nodes of the autograd graph where they do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from gradlint.recorder.facts.autograd import nodes_behind
from gradlint.restore.global_state import without_torch_function
from gradlint.restore.tensors import PLAIN_TYPES
from gradlint.traces.ids import ParameterKey

_HARMLESS = frozenset(
    """
    AccumulateGrad Add Addmm Alias AsStrided AvgPool2D Baddbmm Bmm Cat Clone Convolution Copy Embedding Expand
    Gather Gelu Hardswish Hardtanh Index IndexSelect LeakyRelu MaskedFill MaxPool2DWithIndices Mean Mm Mse
    MseLoss Mv NativeDropout Neg Permute Relu Repeat Reshape ReshapeAlias Rsub Select Sigmoid Silu Slice Split
    SplitWithSizes Squeeze Stack Sub Sum T Tanh Threshold ToCopy Transpose Unbind UnsafeSplit UnsafeView
    Unsqueeze View Where
    """.split()
)
"""Plain names of nodes that make a finite gradient neither NaN nor infinite, unless a value overflows."""

_HALF = (torch.float16, torch.bfloat16)


class FiniteWatch:
    """Sums up gradients of one backward pass: those of parameters, and those around each node that may spoil them.

    A sum is finite if all entries are. The sums are read after the pass, so that a GPU does not wait for each.
    """

    def __init__(self, roots: Sequence[Tensor]) -> None:
        self._roots = roots
        self._losses = [_total(root) for root in roots]
        self._arrived: dict[ParameterKey, Tensor | None] = {}
        self._passed: list[tuple[Any, list[Tensor | None], list[Tensor | None]]] = []
        """(node, sums of the gradients it received, sums of those it sent), in the order of the pass."""
        self._handles: list[Any] = []

    def __enter__(self) -> FiniteWatch:
        with without_torch_function():
            for node in nodes_behind(self._roots):
                if plain_name(node) not in _HARMLESS:
                    self._handles.append(node.register_hook(self._noting(node)))
        return self

    def __exit__(self, *exception: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _noting(self, node: Any) -> Callable[[Any, Any], None]:
        def hook(sent: Any, received: Any) -> None:
            with without_torch_function():
                self._passed.append((node, list(map(_total, received)), list(map(_total, sent))))

        return hook

    def arrive(self, key: ParameterKey, gradient: Tensor) -> None:
        """Take note of the gradient of a parameter."""
        self._arrived[key] = _total(gradient)

    def spoilt(self) -> dict[ParameterKey, Any]:
        """Return parameter → the node that made its gradient NaN or infinite from a finite loss.

        The node is None where it is unknown.
        """
        with without_torch_function(), torch.no_grad():
            if _all_finite(self._arrived.values()) or not _all_finite(self._losses):
                return {}
            spoilt: dict[ParameterKey, Any] = {
                key: None for key, total in self._arrived.items() if not _all_finite((total,))
            }
            for node, received, sent in reversed(self._passed):
                if _all_finite(received) and not _all_finite(sent):
                    edges = [n for n, total in enumerate(sent) if not _all_finite((total,))]
                    spoilt.update(dict.fromkeys(spoilt.keys() & _leaves(node, edges), node))
            return spoilt


def plain_name(node: Any) -> str:
    """Return the name of a node without its suffix: ``Sqrt`` for ``SqrtBackward0``."""
    name: str = node.name()
    return name.partition("Backward")[0].rpartition("::")[2]


def _leaves(node: Any, edges: Iterable[int]) -> set[int]:
    """Return the identities of the leaves behind some edges of a node."""
    pending = [following for n in edges if (following := node.next_functions[n][0]) is not None]
    seen = set(pending)
    leaves: set[int] = set()
    while pending:
        current = pending.pop()
        variable = getattr(current, "variable", None)
        if isinstance(variable, Tensor):
            leaves.add(id(variable))
        for following, _ in current.next_functions:
            if following is not None and following not in seen:
                seen.add(following)
                pending.append(following)
    return leaves


def _total(gradient: Any) -> Tensor | None:
    """Return the sum of a gradient; None where it has none or the sum shows nothing."""
    if type(gradient) not in PLAIN_TYPES or gradient.is_meta:
        return None
    try:
        plain = gradient.detach()
        if plain.is_sparse:
            plain = plain._values()
        if not (plain.is_floating_point() or plain.is_complex()):
            return None
        total: Tensor = plain.sum(dtype=torch.float32 if plain.dtype in _HALF else None)
        return total
    except (RuntimeError, NotImplementedError):
        return None


def _all_finite(totals: Iterable[Tensor | None]) -> bool:
    alike: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for total in totals:
        if total is not None:
            alike.setdefault((total.device, total.dtype), []).append(total)
    return all(bool(torch.isfinite(torch.stack(group)).all()) for group in alike.values())
