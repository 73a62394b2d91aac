"""The activation whose result a loss gets, as far as the source proves it."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from gradlint.source.file import SourceModule
from gradlint.source.idioms import LossCall, loss_calls
from gradlint.source.order import value_of

_DEEPEST = 8
_SAME_AXES = frozenset("contiguous float double half to cuda cpu clone type type_as".split())
_OTHER_AXES = frozenset("view reshape squeeze unsqueeze flatten permute transpose t".split())


@dataclass(frozen=True)
class Activation:
    """An activation whose result a loss is given."""

    call: ast.expr
    """The call that applies it, or that creates the layer that applies it."""
    name: str
    """``softmax``, ``log_softmax``, ``sigmoid``."""
    dim: int | None
    """The axis that is written; None where none is."""


def activated_losses(
    module: SourceModule, function: str, layer: str, names: frozenset[str]
) -> list[tuple[LossCall, Activation]]:
    """Return the calls of a loss that get the result of one of these activations.

    The loss is a function or a layer of torch.nn.
    """
    if function not in module.source.text and layer not in module.source.text:
        return []
    pairs = []
    for loss in loss_calls(module, function, layer):
        activation = _applied(module, loss.given, names, 0)
        if activation is not None:
            pairs.append((loss, activation))
    return pairs


def exchanged_losses(module: SourceModule, function: str, layer: str) -> list[LossCall]:
    """Return the calls of a loss whose log-probabilities and probabilities are exchanged."""
    exchanged = []
    for loss, _ in activated_losses(module, function, layer, frozenset(("softmax",))):
        options = {k.arg for k in loss.call.keywords}
        if loss.target is not None and "log_target" not in options and None not in options and len(loss.call.args) < 6:
            if _applied(module, loss.target, frozenset(("log_softmax",)), 0) is not None:
                exchanged.append(loss)
    return exchanged


def _applied(module: SourceModule, node: ast.expr, names: frozenset[str], depth: int) -> Activation | None:
    if depth > _DEEPEST:
        return None
    if isinstance(node, ast.Name):
        value = value_of(module, node)
        return _applied(module, value, names, depth + 1) if value is not None else None
    if not isinstance(node, ast.Call):
        return None
    full = module.qualified(node.func)
    if full:
        name = full.rpartition(".")[2]
        if full in (f"torch.{name}", f"torch.nn.functional.{name}") and name in names:
            return _activation(node, node, name, 1)
        return None
    if isinstance(node.func, ast.Attribute) and module.kind(node.func) is None:
        name = node.func.attr
        if name in names and not (isinstance(node.func.value, ast.Name) and node.func.value.id in ("self", "cls")):
            return _activation(node, node, name, 0)
        if name in _SAME_AXES or (name in _OTHER_AXES and "sigmoid" in names):
            return _applied(module, node.func.value, names, depth + 1)
    return _by_module(module, node, names, depth)


def _by_module(module: SourceModule, call: ast.Call, names: frozenset[str], depth: int) -> Activation | None:
    """Return the activation that a layer, or a network of this file, applies last."""
    kind = module.kind(call.func)
    if kind is None or not kind.module:
        return None
    if isinstance(kind.cls, ast.ClassDef):
        return _returned(module, kind.cls, names, depth)
    creation = kind.made
    while isinstance(creation, ast.Call) and kind is not None and kind.cls == "torch.nn.Sequential":
        if not creation.args or isinstance(creation.args[-1], ast.Starred):
            return None
        kind = module.kind(creation.args[-1])
        creation = kind.made if kind is not None else None
    layers = {"torch.nn.Softmax": "softmax", "torch.nn.LogSoftmax": "log_softmax", "torch.nn.Sigmoid": "sigmoid"}
    name = layers.get(kind.cls, "") if kind is not None and isinstance(kind.cls, str) else ""
    if name not in names or not isinstance(creation, ast.Call):
        return None
    blamed = call if module.kind(call.func) == kind else creation
    return _activation(blamed, creation, name, 0)


def _returned(module: SourceModule, cls: ast.ClassDef, names: frozenset[str], depth: int) -> Activation | None:
    """Return the activation whose result every ``return`` of a class's forward gives."""
    forward = module.kinds.method(cls, "forward")
    if forward is None:
        return None
    activations = []
    for node in ast.walk(forward):
        if isinstance(node, ast.Return) and module.tree.function(node) is forward:
            applied = _applied(module, node.value, names, depth + 1) if node.value is not None else None
            if applied is None:
                return None
            activations.append(applied)
    return activations[0] if activations else None


def _activation(blamed: ast.expr, call: ast.Call, name: str, position: int) -> Activation | None:
    named = {k.arg: k.value for k in call.keywords}
    written = named.get("dim") or (call.args[position] if len(call.args) > position else None)
    if written is None or name == "sigmoid":
        return Activation(blamed, name, None)
    try:
        dim = ast.literal_eval(written)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None
    return Activation(blamed, name, dim) if isinstance(dim, int) else None
