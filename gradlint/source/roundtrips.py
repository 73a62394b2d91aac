"""Layers of a forward whose numbers reach the result while their gradient does not.

An abstract run of one ``forward`` records for every name the layers whose data is in it, and those that gradient
reaches. Anything that is not understood counts as keeping all gradient.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from gradlint.source.file import SourceModule
from gradlint.source.idioms import grad_off, makes_trainable
from gradlint.source.scopes import Function, self_name

_TAKES_OUT = frozenset("item tolist numpy".split())
_COPIES = frozenset(("torch.tensor", "torch.autograd.Variable", "torch.FloatTensor", "torch.Tensor"))
_KEEPS = frozenset(("torch.as_tensor", "torch.from_numpy"))
_EMPTY_METHODS = frozenset(
    "argmax argmin argsort size dim numel ndimension nelement stride get_device is_floating_point long int "
    "short bool eq ne gt ge lt le any all isnan isinf nonzero byte bernoulli multinomial sign floor ceil "
    "round trunc requires_grad_ zero_ fill_".split()
)
_EMPTY_FUNCTIONS = frozenset(
    f"torch.{name}"
    for name in "argmax argmin argsort arange bernoulli bincount ceil empty empty_like eq eye floor full full_like ge "
    "gt is_tensor isfinite isinf isnan le linspace logical_and logical_not logical_or lt manual_seed multinomial ne "
    "nonzero numel ones ones_like rand rand_like randint randn randn_like randperm round searchsorted sign sort topk "
    "trunc unique where zeros zeros_like".split()
)
_EMPTY_ATTRIBUTES = frozenset("shape device dtype ndim grad grad_fn requires_grad is_leaf is_cuda training".split())
_SAME_ATTRIBUTES = frozenset("T mT H mH real".split())
_CONTAINERS = frozenset("list tuple sum max min abs zip enumerate reversed sorted".split())
_EMPTY_BUILTINS = frozenset("int bool len str repr range isinstance hasattr type print id".split())


@dataclass(frozen=True)
class _Value:
    """The layers in an expression's value."""

    data: frozenset[str] = frozenset()
    """Attributes of self whose parameters contribute to its numbers."""
    live: frozenset[str] = frozenset()
    """The attributes among them that gradient reaches."""
    cuts: Mapping[str, ast.expr] = field(default_factory=dict)
    """The place that cut gradient to each of the others."""
    unknown: bool = False
    """True if it may hold anything, with its gradient."""


_NOTHING = _Value()
_UNKNOWN = _Value(unknown=True)
_Names = dict[str, _Value]


def _joined(values: Iterable[_Value]) -> _Value:
    values = list(values)
    cuts: dict[str, ast.expr] = {}
    for value in values:
        cuts = {**value.cuts, **cuts}
    return _Value(
        frozenset[str]().union(*(v.data for v in values)),
        frozenset[str]().union(*(v.live for v in values)),
        cuts,
        any(v.unknown for v in values),
    )


def _cut(value: _Value, at: ast.expr) -> _Value:
    return replace(value, live=frozenset(), cuts={**dict.fromkeys(value.live, at), **value.cuts})


class _Unreadable(Exception):
    """The forward contains a statement that is not understood."""


@dataclass(frozen=True)
class Roundtrip:
    """A place where values leave autograd, and the layers that get no gradient because of it."""

    at: ast.expr
    layers: tuple[str, ...]


def find_roundtrips(module: SourceModule, cls: ast.ClassDef, forward: Function) -> list[Roundtrip]:
    """Return the places in a forward that cut all gradient to a layer.

    The layer's numbers reach the result, and gradient reaches another layer. Empty if that is not certain.
    """
    run = _Run(module, cls, forward)
    try:
        run.block(forward.body, {a.arg: _NOTHING for a in ast.walk(forward.args) if isinstance(a, ast.arg)})
    except _Unreadable:
        return []
    result = _joined(run.returned)
    if result.unknown or not result.live:
        return []
    layers_by_node: dict[ast.expr, list[str]] = {}
    for layer in sorted(result.data - result.live):
        at = result.cuts.get(layer)
        if at is not None:
            layers_by_node.setdefault(at, []).append(layer)
    return [Roundtrip(at, tuple(layers)) for at, layers in layers_by_node.items()]


class _Run:
    def __init__(self, module: SourceModule, cls: ast.ClassDef, forward: Function) -> None:
        self.module, self.cls = module, cls
        self.own = self_name(forward)
        self.attributes = module.kinds.attributes(cls)
        self.returned: list[_Value] = []

    # Statements

    def block(self, statements: list[ast.stmt], names: _Names) -> _Names:
        for statement in statements:
            names = self.statement(statement, names)
        return names

    def statement(self, node: ast.stmt, names: _Names) -> _Names:
        if isinstance(node, ast.Assign):
            value = self.value(node.value, names)
            for target in node.targets:
                names = self.assigned(target, value, names)
            return names
        if isinstance(node, ast.AnnAssign):
            return self.assigned(node.target, self.value(node.value, names), names) if node.value else names
        if isinstance(node, ast.AugAssign):
            value = self.value(node.value, names)
            old = names.get(node.target.id, _NOTHING) if isinstance(node.target, ast.Name) else _NOTHING
            return self.assigned(node.target, _joined([old, value]), names)
        if isinstance(node, ast.Return):
            self.returned.append(self.value(node.value, names) if node.value is not None else _NOTHING)
            return names
        if isinstance(node, ast.If):
            return self.either(self.block(node.body, dict(names)), self.block(node.orelse, dict(names)))
        if isinstance(node, ast.For | ast.While):
            return self.loop(node, names)
        if isinstance(node, ast.Expr):
            return self.called(node.value, names)
        if isinstance(node, ast.Pass | ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.Continue | ast.Break):
            return names
        if isinstance(node, ast.With) and not any(grad_off(self.module, i.context_expr) for i in node.items):
            for item in node.items:
                if item.optional_vars is not None:
                    names = self.assigned(item.optional_vars, _UNKNOWN, names)
            return self.block(node.body, names)
        raise _Unreadable

    def loop(self, node: ast.For | ast.While, names: _Names) -> _Names:
        for _ in range(2):  # what one round leaves is there for the next
            inside = dict(names)
            if isinstance(node, ast.For):
                inside = self.assigned(node.target, self.value(node.iter, names), inside)
            names = self.either(names, self.block(node.body, inside))
        return self.block(node.orelse, names)

    @staticmethod
    def either(one: _Names, two: _Names) -> _Names:
        return {name: _joined([v[name] for v in (one, two) if name in v]) for name in {**one, **two}}

    def called(self, node: ast.expr, names: _Names) -> _Names:
        """Handle a call for its effect, which may change its object and its arguments."""
        if isinstance(node, ast.Constant):
            return names
        touched = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} - {self.own}
        function = node.func if isinstance(node, ast.Call) else None
        if isinstance(function, ast.Name) and function.id == "print":
            return names
        if isinstance(node, ast.Call) and isinstance(function, ast.Attribute) and function.attr in ("append", "extend"):
            if isinstance(function.value, ast.Name):
                arguments = [self.value(a, names) for a in node.args]
                return {**names, function.value.id: _joined([names.get(function.value.id, _NOTHING), *arguments])}
        return {name: _UNKNOWN if name in touched else value for name, value in names.items()}

    def assigned(self, target: ast.expr, value: _Value, names: _Names) -> _Names:
        if isinstance(target, ast.Name):
            return {**names, target.id: value}
        if isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                names = self.assigned(part, value, names)
            return names
        if isinstance(target, ast.Starred):
            return self.assigned(target.value, value, names)
        if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
            return {**names, target.value.id: _joined([names.get(target.value.id, _NOTHING), value])}
        if isinstance(target, ast.Attribute):
            return names
        raise _Unreadable

    # Expressions

    def value(self, node: ast.expr, names: _Names) -> _Value:
        if isinstance(node, ast.Name):
            return names.get(node.id, _NOTHING)
        if isinstance(node, ast.Constant | ast.Compare | ast.BoolOp | ast.JoinedStr | ast.Slice):
            return _NOTHING
        if isinstance(node, ast.Attribute):
            return self.attribute(node, names)
        if isinstance(node, ast.Call):
            return self.call(node, names)
        if isinstance(node, ast.BinOp):
            return _joined([self.value(node.left, names), self.value(node.right, names)])
        if isinstance(node, ast.UnaryOp):
            return _NOTHING if isinstance(node.op, ast.Not) else self.value(node.operand, names)
        if isinstance(node, ast.Subscript | ast.Starred):
            return self.value(node.value, names)
        if isinstance(node, ast.List | ast.Tuple | ast.Set):
            return _joined(self.value(e, names) for e in node.elts)
        if isinstance(node, ast.Dict):
            return _joined(self.value(v, names) for v in node.values)
        if isinstance(node, ast.IfExp):
            return _joined([self.value(node.body, names), self.value(node.orelse, names)])
        if isinstance(node, ast.ListComp | ast.GeneratorExp | ast.SetComp):
            inside = dict(names)
            for part in node.generators:
                inside = self.assigned(part.target, self.value(part.iter, inside), inside)
            return self.value(node.elt, inside)
        return _UNKNOWN

    def attribute(self, node: ast.Attribute, names: _Names) -> _Value:
        if isinstance(node.value, ast.Name) and node.value.id == self.own:
            return self.own_attribute(node)
        if node.attr in _EMPTY_ATTRIBUTES:
            return _NOTHING
        base = self.value(node.value, names)
        if node.attr == "data":
            return _cut(base, node)
        return base if node.attr in _SAME_ATTRIBUTES else _UNKNOWN

    def own_attribute(self, node: ast.Attribute) -> _Value:
        kind = self.module.kind(node)
        if kind is not None and kind.what == "parameter":
            if all(makes_trainable(self.module, v) for v in self.attributes.get(node.attr, ())):
                return _Value(frozenset((node.attr,)), frozenset((node.attr,)))
        values = self.attributes.get(node.attr, ())
        plain = bool(values) and all(isinstance(v, ast.Constant | ast.Name) for v in values)
        return _NOTHING if (kind is not None and kind.what in ("other", "tensor")) or plain else _UNKNOWN

    def call(self, node: ast.Call, names: _Names) -> _Value:
        argument = _joined(
            [self.value(a, names) for a in node.args] + [self.value(k.value, names) for k in node.keywords]
        )
        full = self.module.qualified(node.func)
        if full:
            return self.function(full, node, argument)
        if isinstance(node.func, ast.Name) and not self.module.tree.bindings(node.func):
            if node.func.id == "float":
                return _cut(argument, node)
            if node.func.id in _EMPTY_BUILTINS:
                return _NOTHING
            return argument if node.func.id in _CONTAINERS else _UNKNOWN
        if not isinstance(node.func, ast.Attribute):
            return _UNKNOWN
        if isinstance(node.func.value, ast.Name) and node.func.value.id == self.own:
            return self.layer(node.func, argument)
        return self.method(node, node.func, argument, names)

    def function(self, full: str, node: ast.Call, argument: _Value) -> _Value:
        if full in _COPIES:
            return _cut(argument, node)
        if full in _KEEPS:
            made_of_many = bool(node.args) and isinstance(node.args[0], ast.List | ast.ListComp)
            return _cut(argument, node) if made_of_many and full == "torch.as_tensor" else argument
        if full in _EMPTY_FUNCTIONS:
            return _NOTHING
        if full.startswith(("torch.nn.functional.", "math.")) or (full.count(".") == 1 and full.startswith("torch.")):
            return argument
        if full.startswith("numpy.") and not argument.live:
            return argument
        return _UNKNOWN

    def method(self, node: ast.Call, function: ast.Attribute, argument: _Value, names: _Names) -> _Value:
        name = function.attr
        if name in _EMPTY_METHODS or (name.startswith("new_") and name != "new_tensor"):
            return _NOTHING
        base = self.value(function.value, names)
        if name in _TAKES_OUT:
            return _cut(base, node)
        if name == "new_tensor":
            return _cut(argument, node)
        if name == "detach":
            return replace(base, live=frozenset())  # no roundtrip; that it was meant is likelier than not
        return _joined([base, argument])

    def layer(self, function: ast.Attribute, argument: _Value) -> _Value:
        kind = self.module.kind(function)
        if kind is None or not kind.module:
            return _UNKNOWN
        values = self.attributes.get(function.attr, ())
        if isinstance(kind.cls, str) and kind.cls.startswith("torch.nn."):
            if values and all(makes_trainable(self.module, v) for v in values):
                name = frozenset((function.attr,))
                return _joined([argument, _Value(name, name)])
            return argument
        return _UNKNOWN
