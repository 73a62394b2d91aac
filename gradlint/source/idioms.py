"""Idioms of torch code: grad-mode regions, freezes, new layers, calls of losses."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint.source.attributes import containers_of, write_of
from gradlint.source.file import SourceModule
from gradlint.source.kinds import Kind
from gradlint.source.names import TRAINABLE
from gradlint.source.scopes import Function, dotted_text, last_name

_DEEPEST = 8


def grad_off(module: SourceModule, expression: ast.expr) -> str:
    """Return ``no_grad`` or the like if an expression switches grad mode off, else "".

    The expression is a context manager or a decorator.
    """
    call = expression if isinstance(expression, ast.Call) else None
    full = module.qualified(call.func if call else expression)
    if full not in ("torch.no_grad", "torch.inference_mode", "torch.set_grad_enabled"):
        return ""
    name = full.removeprefix("torch.")
    arguments = [*call.args, *(k.value for k in call.keywords)] if call else []
    if name == "no_grad":
        return "" if arguments else name  # no_grad(f) makes a function
    if name == "inference_mode":
        return name if all(isinstance(a, ast.Constant) and a.value is True for a in arguments) else ""
    return (
        name if call and all(isinstance(a, ast.Constant) and a.value is False for a in arguments) and arguments else ""
    )


_SWITCHES = frozenset("no_grad inference_mode set_grad_enabled".split())


def _may_bind_in_grad_off(module: SourceModule) -> bool:
    """Return True if a block or decorated function only assigns.

    Most files have none, and their whole tree need not be built.
    """
    functions: list[Function] = [*module.stated(ast.FunctionDef), *module.stated(ast.AsyncFunctionDef)]
    regions = [(block.body, [item.context_expr for item in block.items]) for block in module.stated(ast.With)]
    regions += [(function.body, function.decorator_list) for function in functions if function.decorator_list]
    return any(_only_assigns(body) and any(_may_switch(module, e) for e in switches) for body, switches in regions)


def _may_switch(module: SourceModule, expression: ast.expr) -> bool:
    called = expression.func if isinstance(expression, ast.Call) else expression
    if isinstance(called, ast.Name) and called.id not in _SWITCHES:  # under another name?
        text = module.source.text
        return f"as {called.id}" in text or f"{called.id} =" in text
    return last_name(called) in _SWITCHES


def _only_assigns(body: list[ast.stmt]) -> bool:
    return any(isinstance(s, ast.Assign) for s in body) and all(
        isinstance(s, ast.Pass) or has_no_effect(s) or (isinstance(s, ast.Assign) and not _computes(s.value))
        for s in body
    )


def _computes(value: ast.expr) -> bool:
    """Return True if a value certainly comes from an existing object and is no new layer.

    That is a call of anything on ``self``, a function of torch, or a method of another call's result.
    """
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
        return False
    root: ast.expr = value.func
    while isinstance(root, ast.Attribute):
        root = root.value
    if not isinstance(root, ast.Name) or root.id == "self":
        return True
    return root is value.func.value and root.id == "torch"


def has_no_effect(statement: ast.stmt) -> bool:
    """Return True if a statement is a docstring or ``super().__init__()``."""
    if not isinstance(statement, ast.Expr):
        return False
    value = statement.value
    if isinstance(value, ast.Constant):
        return True
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "__init__"
        and isinstance(value.func.value, ast.Call)
    )


@dataclass(frozen=True)
class Region:
    """A block, or a whole function, that runs with grad mode off."""

    node: ast.With | Function
    expression: ast.expr
    """The expression that switches it off, at which findings are reported."""
    how: str

    @property
    def body(self) -> list[ast.stmt]:
        return self.node.body


def grad_off_regions(module: SourceModule) -> Iterator[Region]:
    """Yield the ``with`` blocks and decorated functions whose grad mode is off."""
    for block in module.tree.nodes(ast.With):
        for item in block.items:
            if how := grad_off(module, item.context_expr):
                yield Region(block, item.context_expr, how)
                break
    functions: list[Function] = [*module.tree.nodes(ast.FunctionDef), *module.tree.nodes(ast.AsyncFunctionDef)]
    for function in functions:
        for decorator in function.decorator_list:
            if how := grad_off(module, decorator):
                yield Region(function, decorator, how)
                break


def grad_off_bindings(module: SourceModule) -> Iterator[tuple[Region, list[tuple[ast.expr, ast.expr]]]]:
    """Yield the regions with grad mode off that only assign.

    Each comes with the (target, value) of its assignments.
    """
    for region in grad_off_regions(module) if _may_bind_in_grad_off(module) else ():
        said = [s for s in region.body if not isinstance(s, ast.Pass) and not has_no_effect(s)]
        bound = [(s.targets[0], s.value) for s in said if isinstance(s, ast.Assign) and len(s.targets) == 1]
        if bound and len(bound) == len(said):
            yield region, bound


def in_grad_off(module: SourceModule, node: ast.AST) -> bool:
    """Return True if a node is in a block or function with grad mode off."""
    for around in module.tree.above(node):
        if isinstance(around, ast.With) and any(grad_off(module, item.context_expr) for item in around.items):
            return True
        if isinstance(around, ast.FunctionDef | ast.AsyncFunctionDef):
            if any(grad_off(module, d) for d in around.decorator_list if d is not node):
                return True
    return False


def freezes(module: SourceModule) -> Iterator[tuple[ast.expr, ast.AST]]:
    """Yield (object, node) for each place that sets or calls the flag of an object.

    The flag is ``requires_grad`` or ``requires_grad_``. For the variable of a loop over ``X.parameters()``
    or the like, the object is X.
    """
    for name in ("requires_grad", "requires_grad_"):
        for node in module.tree.attributes.get(name, ()):
            if name == "requires_grad_" or isinstance(node.ctx, ast.Store):
                yield from ((base, node) for base in containers_of(module, node.value))
    for call in module.tree.nodes(ast.Call):
        for write in write_of(module, call, "requires_grad"):
            yield from ((base, call) for base in containers_of(module, write.base))


def is_flag_set(module: SourceModule, tensor: ast.expr) -> bool:
    """Return True if the function around an expression sets the flag of the same object."""
    function = module.tree.function(tensor)
    text = dotted_text(tensor)
    return any(
        module.tree.function(place) is function
        and text in (dotted_text(base), dotted_text(getattr(place, "value", base)))
        and not (getattr(place, "attr", "") == "requires_grad_" and isinstance(getattr(place, "ctx", None), ast.Store))
        for base, place in freezes(module)
    )  # an assignment to requires_grad_ replaces the method and sets nothing


def frozen_elsewhere(module: SourceModule, target: ast.expr, region: ast.AST) -> bool:
    """Return True if the file may freeze the target of an assignment outside of a region.

    That is a freeze of the same name or attribute, or of an object that contains it or may contain it.
    """
    inside = set(ast.walk(region))
    owner = module.tree.method_of(target)
    last = target.attr if isinstance(target, ast.Attribute) else dotted_text(target)
    for base, place in freezes(module):
        if place in inside:
            return True
        while isinstance(base, ast.Subscript):
            base = base.value
        if isinstance(base, ast.Attribute):
            if base.attr == last:
                return True
            continue
        if isinstance(base, ast.Name) and base.id == last:
            return True
        if not isinstance(target, ast.Attribute):
            continue
        kind = module.kind(base)
        if kind is None or (kind.module and owner is not None and kind.cls in (None, owner[0])):
            return True
    return False


def makes_trainable(module: SourceModule, value: ast.expr | None, depth: int = 0) -> bool:
    """Return True if a call certainly makes an object with parameters that require grad."""
    if not isinstance(value, ast.Call) or depth > _DEEPEST:
        return False
    switches = ("requires_grad", "affine", "elementwise_affine", "_freeze", "freeze")
    if any(
        k.arg in switches and not (isinstance(k.value, ast.Constant) and k.value.value is True) for k in value.keywords
    ):
        return False
    kind = module.kind(value)
    if kind is None:
        return False
    if kind.what == "parameter":
        return len(value.args) < 2
    if not kind.module:
        return False
    if isinstance(kind.cls, ast.ClassDef):
        values = [v for assigned in module.kinds.attributes(kind.cls).values() for v in assigned]
        return any(makes_trainable(module, v, depth + 1) for v in values)
    if kind.cls is None or not kind.cls.startswith("torch.nn."):
        return True  # a whole pretrained network
    name = kind.cls.removeprefix("torch.nn.")
    if name in ("Sequential", "ModuleList", "ModuleDict"):
        return any(makes_trainable(module, part, depth + 1) for part in _parts(value))
    return name in TRAINABLE


def _parts(call: ast.Call) -> Iterator[ast.expr]:
    for argument in call.args:
        value = argument.value if isinstance(argument, ast.Starred) else argument
        if isinstance(value, ast.List | ast.Tuple):
            yield from value.elts
        elif isinstance(value, ast.ListComp | ast.GeneratorExp):
            yield value.elt
        elif isinstance(value, ast.Dict):
            yield from value.values
        else:
            yield value


def module_class(module: SourceModule, node: ast.AST) -> tuple[ast.ClassDef, Function] | None:
    """Return the nn.Module class and its method that a node is in."""
    method = module.tree.method_of(node)
    return method if method is not None and module.kinds.is_module(method[0]) else None


def own_attribute(node: ast.AST, method: Function) -> str:
    """Return the name of an attribute of ``self``; empty for anything else."""
    from gradlint.source.scopes import self_name

    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == self_name(method):
        return node.attr
    return ""


@dataclass(frozen=True)
class LossCall:
    """A call of a loss function whose name is known."""

    call: ast.Call
    given: ast.expr
    """Its first argument, the prediction."""
    target: ast.expr | None
    """Its second argument; None if it is not written."""


def loss_calls(module: SourceModule, function: str, layer: str) -> Iterator[LossCall]:
    """Yield the calls of a loss.

    That is ``torch.nn.functional.<function>``, an ``nn.<layer>`` object, or one made on the spot.
    """
    carriers = _carriers(module, {function, layer})
    for call in module.tree.nodes(ast.Call):
        if not isinstance(call.func, ast.Call) and last_name(call.func) not in carriers:
            continue
        kind: Kind | None = None
        full = module.qualified(call.func)
        if full != f"torch.nn.functional.{function}":
            if full:
                continue
            if not isinstance(call.func, ast.Name | ast.Attribute | ast.Call):
                continue
            kind = module.kind(call.func)
            if kind is None or kind.cls != f"torch.nn.{layer}":
                continue
        named = {k.arg: k.value for k in call.keywords}
        value = call.args[0] if call.args else named.get("input")
        if value is not None and not isinstance(value, ast.Starred):
            yield LossCall(call, value, call.args[1] if len(call.args) > 1 else named.get("target"))


def _carriers(module: SourceModule, names: set[str]) -> set[str]:
    """Return the last names of all expressions that may stand for one of these names.

    These are the names themselves and, step by step, the names bound by statements that mention them. The look is quick
    and leaves out most calls of a file.
    """
    tree = module.tree
    aliases = {a.asname: a.name for a in tree.nodes(ast.alias) if a.asname}
    pending = [*names, *(short for short, name in aliases.items() if name in names)]
    carriers = set(pending)
    while pending:
        name = pending.pop()
        for use in (*tree.loads.get(name, ()), *tree.attributes.get(name, ())):
            for target in _bound_by(module, use):
                if target not in carriers:
                    carriers.add(target)
                    pending.append(target)
    return carriers


def _bound_by(module: SourceModule, use: ast.AST) -> Iterator[str]:
    """Yield the names that an expression is assigned to, looped over by, or annotates."""
    for around in module.tree.above(use):
        targets: list[ast.expr] = []
        if isinstance(around, ast.arg):
            yield around.arg
        elif isinstance(around, ast.Assign):
            targets = around.targets
        elif isinstance(around, ast.AnnAssign | ast.NamedExpr | ast.For | ast.AsyncFor | ast.comprehension):
            targets = [around.target]
        for target in targets:
            yield from filter(None, (last_name(node) for node in ast.walk(target)))
        if isinstance(around, ast.stmt):
            return
