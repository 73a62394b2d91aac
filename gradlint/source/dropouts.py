"""Calls that drop elements of a tensor in eval mode too."""

from __future__ import annotations

import ast
import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.source.file import SourceModule
from gradlint.source.order import value_of
from gradlint.source.scopes import Function, defaults, last_name, own_nodes, self_name

_FUNCTIONAL = "torch.nn.functional."
_BY_DEFAULT = frozenset("dropout dropout1d dropout2d dropout3d".split())
"""Functions of torch.nn.functional whose ``training`` is True unless it is given."""
_ON_REQUEST = frozenset(("alpha_dropout", "feature_alpha_dropout"))
"""Functions of torch.nn.functional whose ``training`` is False unless it is given."""
_ATTENTION = "scaled_dot_product_attention"
_CALLS = _BY_DEFAULT | _ON_REQUEST | {_ATTENTION}
_LAYER = re.compile(r"^(?:Feature)?(?:Alpha)?Dropout(?:[123]d)?$")

_MODE = re.compile(r"(?<!pre)train|eval|infer|(?:^|_)test|mode(?!l)|determin|augment|nois|corrupt|(?:^|_)views?(?:$|_)")
"""Parts of names that ask for the mode, or that stand for what only training does."""
_DELIBERATE = re.compile(r"(?:^|_)mc(?:_|$|drop)|monte|bayes|uncertain|sampl|stochastic|always|prenet|ensemble")
"""Parts of names of dropout that is meant to stay active."""
_ENTRIES = re.compile(r"^_*(?:forward|__call__|encode|decode|embed|extract|features|get_features|message|update)")
"""Begin of the names of methods that user code calls in training and in evaluation."""


class DropoutFault(enum.Enum):
    """The reason why a call drops elements in eval mode."""

    NO_ARGUMENT = "no argument"
    """``F.dropout(x)``: ``training`` is True by default."""
    CONSTANT = "constant"
    """``training=True``."""
    ATTENTION = "attention"
    """A probability of scaled_dot_product_attention, which has no mode."""
    NEW_LAYER = "new layer"
    """``nn.Dropout()(x)``: a new layer is in train mode."""


@dataclass(frozen=True)
class HardWiredDropout:
    """A call that drops elements whatever the mode is."""

    call: ast.Call
    fault: DropoutFault
    deliberate: bool
    """True if an argument or a name says that it is meant."""


def hard_wired_dropouts(module: SourceModule) -> Iterator[HardWiredDropout]:
    """Yield the hard-wired dropouts in what the modules of a file compute in every mode."""
    for call in module.tree.nodes(ast.Call):
        name = last_name(call.func)
        if name in _CALLS:
            found = [hard_wired_dropout(module, call)]
        elif _LAYER.match(name) and module.qualified(call.func) == f"torch.nn.{name}":
            found = [_of_new_layer(module, use, call) for use in _calls_of_new(module, call)]
        else:
            continue
        for dropout in found:
            if dropout is not None and _is_computed(module, dropout.call):
                yield dropout


def hard_wired_dropout(module: SourceModule, call: ast.Call) -> HardWiredDropout | None:
    """Return how a call of a function drops elements whatever the mode is.

    None if it does not, or if it is reached only in some modes.
    """
    fault = _fault(module, call)
    if fault is None or asks_for_mode(module, call):
        return None
    deliberate = fault is DropoutFault.CONSTANT or _is_deliberate(module, call)
    return HardWiredDropout(call, fault, deliberate)


def asks_for_mode(module: SourceModule, node: ast.AST) -> bool:
    """Return True if a condition on the way to a node names the mode.

    A switch that is passed to the function counts too.
    """
    function = module.tree.function(node)
    if function is None:
        return False
    tests: list[ast.expr] = []
    child = node
    for around in module.tree.above(node):
        if isinstance(around, ast.If | ast.While | ast.IfExp) and child is not around.test:
            tests.append(around.test)
        elif isinstance(around, ast.BoolOp) and isinstance(child, ast.expr):
            tests += around.values[: around.values.index(child)]
        if around is function:
            break
        child = around
    line = getattr(node, "lineno", 0)
    tests += [s.test for s in own_nodes(function) if isinstance(s, ast.If) and s.lineno < line and _leaves(s)]
    switches = _switches(function)
    return any(_MODE.search(name.lower()) or name in switches for test in tests for name in _spelled(test))


def _fault(module: SourceModule, call: ast.Call) -> DropoutFault | None:
    """Return why a call drops elements in eval mode, by its arguments alone."""
    if any(isinstance(a, ast.Starred) for a in call.args) or any(k.arg is None for k in call.keywords):
        return None
    given = {k.arg: k.value for k in call.keywords}
    name = module.qualified(call.func).removeprefix(_FUNCTIONAL)
    if name == _ATTENTION:
        p = call.args[4] if len(call.args) > 4 else given.get("dropout_p")
        return DropoutFault.ATTENTION if p is not None and _is_fixed(module, p) else None
    if name not in _BY_DEFAULT | _ON_REQUEST | {"torch.dropout"}:
        return None
    p = call.args[1] if len(call.args) > 1 else given.get("p")
    if p is not None and not _is_fixed(module, p):
        return None
    training = call.args[2] if len(call.args) > 2 else given.get("training", given.get("train"))
    if training is None:
        return DropoutFault.NO_ARGUMENT if name in _BY_DEFAULT else None
    if isinstance(training, ast.Constant):
        return DropoutFault.CONSTANT if training.value is True else None
    return None


def _is_fixed(module: SourceModule, p: ast.expr, depth: int = 0) -> bool:
    """Return True if a probability is the same in every mode, and not written as zero."""
    if isinstance(p, ast.Constant):
        return isinstance(p.value, int | float) and p.value > 0
    if isinstance(p, ast.Name):
        value = value_of(module, p)
        return value is not None and depth < 4 and _is_fixed(module, value, depth + 1)
    method = module.tree.method_of(p)
    if not isinstance(p, ast.Attribute) or method is None or any(_MODE.search(n.lower()) for n in _spelled(p)):
        return False
    if any(isinstance(d, ast.FunctionDef) and d.name == p.attr for d in method[0].body):
        return False  # a property
    stores = (use for use in module.tree.attributes[p.attr] if isinstance(use.ctx, ast.Store))
    return not any(_may_change(module, use, method[0]) for use in stores)


def _may_change(module: SourceModule, store: ast.Attribute, cls: ast.ClassDef) -> bool:
    """Return True if a store may change this attribute of an instance after it is made."""
    around = module.tree.method_of(store)
    if around is None or last_name(store.value) != self_name(around[1]):
        return True
    is_related = cls in module.kinds.lineage(around[0]) or around[0] in module.kinds.lineage(cls)
    return is_related and around[1].name != "__init__"


def _of_new_layer(module: SourceModule, call: ast.Call, made: ast.Call) -> HardWiredDropout | None:
    """Return how a call of a layer that was made just before drops elements; None if it may not."""
    p = made.args[0] if made.args else next((k.value for k in made.keywords if k.arg == "p"), None)
    if (p is not None and not _is_fixed(module, p)) or asks_for_mode(module, call) or asks_for_mode(module, made):
        return None
    return HardWiredDropout(call, DropoutFault.NEW_LAYER, _is_deliberate(module, call))


def _calls_of_new(module: SourceModule, made: ast.Call) -> list[ast.Call]:
    """Return the calls of a new layer, at once or by a name of its function that is only called."""
    parent = module.tree.parents.get(made)
    if isinstance(parent, ast.Call) and parent.func is made:
        return [parent]
    if not isinstance(parent, ast.Assign) or len(parent.targets) != 1 or not isinstance(parent.targets[0], ast.Name):
        return []
    function, calls = module.tree.function(made), []
    for use in module.tree.loads.get(parent.targets[0].id, ()) if function is not None else ():
        if module.tree.function(use) is function:
            call = module.tree.parents.get(use)
            if not isinstance(call, ast.Call) or call.func is not use or value_of(module, use) is not made:
                return []
            calls.append(call)
    return calls


def _is_computed(module: SourceModule, call: ast.Call) -> bool:
    """Return True if a call is part of what a module computes in every mode."""
    place = module.tree.method_of(call)
    if place is None or module.tree.function(call) is not place[1]:
        return False
    cls, method = place
    known = module.kinds.is_module(cls)
    from_elsewhere = any(isinstance(b, str) and not b.startswith("torch.") for b in module.kinds.bases(cls))
    if not known and not (from_elsewhere and module.kinds.method(cls, "forward") is not None):
        return False
    pending, reached = [method.name], {method.name}
    while pending:
        name = pending.pop()
        if _MODE.search(name.lower()):
            continue
        if _ENTRIES.match(name):
            return True
        for use in module.tree.attributes.get(name, ()):
            around = module.tree.method_of(use)
            if around is None or last_name(use.value) != self_name(around[1]) or asks_for_mode(module, use):
                continue
            if around[1].name not in reached:
                reached.add(around[1].name)
                pending.append(around[1].name)
    return False


def _is_deliberate(module: SourceModule, call: ast.Call) -> bool:
    """Return True if a name says that dropout stays active: ``MCDropout``, ``self.mc_p``."""
    names = [name for argument in (*call.args[1:], *call.keywords) for name in _spelled(argument)]
    for around in module.tree.above(call):
        if isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(around.name)
        elif isinstance(around, ast.If):
            names += _spelled(around.test)
    return any(_DELIBERATE.search(_words(name)) for name in names)


def _words(name: str) -> str:
    """Return a name in lower case with underscores: ``MCDropout`` as ``mc_dropout``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _switches(function: Function) -> set[str]:
    """Return the arguments that are False or True by default, or named after dropout."""
    arguments = [*function.args.posonlyargs, *function.args.args]
    given = defaults(function).items()
    by_default = {name for name, d in given if isinstance(d, ast.Constant) and isinstance(d.value, bool)}
    return by_default | {a.arg for a in (*arguments, *function.args.kwonlyargs) if "drop" in a.arg}


def _leaves(statement: ast.If) -> bool:
    """Return True if a condition ends the function: ``if not self.training: return x``."""
    return isinstance(statement.body[-1], ast.Return | ast.Raise)


def _spelled(node: ast.AST) -> Iterator[str]:
    """Yield the names and attributes in an expression."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Attribute):
            yield part.attr
