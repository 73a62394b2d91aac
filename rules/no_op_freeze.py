"""GL110 no-op-freeze."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator

from gradlint import (
    Context,
    Finding,
    Fix,
    Function,
    Parameter,
    Region,
    Rule,
    Severity,
    SourceModule,
    agree,
    dotted,
    executed_functions,
    frozen_elsewhere,
    grad_off_regions,
    may_bind_in_grad_off,
    module_class,
    own_attribute,
    region_location,
)


class NoOpFreeze(Rule):
    """A line that means to freeze or load, and does nothing.

    ## What it does
    Finds grad-mode regions that hold nothing but assignments of names (`with torch.no_grad(): self.body = body`),
    `from_pretrained` called on a layer with the result dropped, and parameters frozen through another tensor over the
    same values: `p.data.requires_grad = False`, `p.detach()` as a statement.

    ## Why it is bad
    Grad mode concerns operations, and there are none in the block: what is assigned trains on. `from_pretrained` is a
    class method that returns a new layer: the layer it is called on keeps its random weights and stays trainable.
    `.data` and `detach()` give a new tensor each time; what is set on it is gone with it.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.embed.from_pretrained(torch.randn(10, 4), freeze=True)
            self.head = nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        return {"model": Net(), "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding.from_pretrained(torch.randn(10, 4), freeze=True)
            self.head = nn.Linear(4, 2)

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        return {"model": Net(), "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Known limits
    Silent on blocks that call or write anything, on parameters that are frozen otherwise, and on classes whose
    `from_pretrained` is a method of the instance. In a source file alone, blocks whose names certainly are modules.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html#torch.nn.Embedding.from_pretrained
    """

    code = "GL110"
    name = "no-op-freeze"
    severity = Severity.WARNING
    marks = ("no_grad|inference_mode|set_grad_enabled|from_pretrained|data.requires_grad",)
    recording_decides = True

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for region in grad_off_regions(module) if may_bind_in_grad_off(module) else ():
            targets = _named_modules(module, region) if isinstance(region.node, ast.With) else []
            if targets and not any(frozen_elsewhere(module, t, region.node) for t in targets):
                names = ", ".join(module.text(t) for t in targets)
                yield module.finding(
                    self,
                    f"this block only gives names to what exists, so it freezes nothing: what is now {names} still "
                    f"trains.",
                    region.expression,
                    fix=Fix("Call requires_grad_(False) on what is meant to stay."),
                )
        for statement in module.stated(ast.Expr):
            call = statement.value
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr != "from_pretrained" or module.qualified(call.func):
                continue
            kind = module.kind(call.func.value)
            if kind is not None and kind.cls in ("torch.nn.Embedding", "torch.nn.EmbeddingBag"):
                yield module.finding(
                    self,
                    f"from_pretrained makes a new layer, and it is dropped here: {module.text(call.func.value)} keeps "
                    f"its own values and trains.",
                    call,
                    fix=Fix("Use the result: assign it to the attribute."),
                )

        for flagged in (*module.stated(ast.Expr), *module.stated(ast.Assign)):
            named = _flag_of_another(flagged)
            kind = module.kind(named) if named is not None else None
            if named is not None and kind is not None and kind.what == "parameter":
                text = _another(flagged, module.text(named), "still trains")
                yield module.finding(self, text, flagged, fix=Fix(_ON_ITSELF))

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        copied = _copied_before_forward(context)
        regions = {region_location(trace, e) for e in trace.events_of("grad_off")}
        lines = {(place.path, place.line) for place in regions if place is not None}
        for function in executed_functions(trace):
            for node in function.nodes():
                if isinstance(node, ast.With) and (function.path, node.lineno) in lines:
                    yield from self._region(context, function, node)
                elif isinstance(node, ast.Expr | ast.Assign) and copied and _flag_of_another(node) is not None:
                    where = function.location(node)
                    wrong = [p for p in copied.get((where.path, where.line), ()) if p.requires_grad]
                    if wrong:
                        text = _another(node, context.names(wrong), agree(wrong, "still train"))
                        yield context.finding(self, text, at=where, parameters=wrong, fix=Fix(_ON_ITSELF))
                elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                    yield from self._dropped(context, function, node.value)

    def _region(self, context: Context, function: Function, node: ast.With) -> Iterator[Finding]:
        targets: list[ast.expr] = []
        for statement in node.body:
            if not isinstance(statement, ast.Assign) or not _is_name(statement.value):
                return
            targets += statement.targets
        named = [p for t in targets for p in _held_by(context, dotted(t)[-1:])]
        wrong = [p for p in named if p.requires_grad]
        if wrong:
            yield context.finding(
                self,
                f"this block only gives names to what exists, so it freezes nothing: {context.names(wrong)} "
                f"{agree(wrong, 'still train')}.",
                at=function.location(node.items[0].context_expr),
                parameters=wrong,
                fix=Fix("Call requires_grad_(False) on what is meant to stay."),
            )

    def _dropped(self, context: Context, function: Function, call: ast.Call) -> Iterator[Finding]:
        if not isinstance(call.func, ast.Attribute) or call.func.attr != "from_pretrained":
            return
        parts = dotted(call.func.value)
        wrong = [p for p in _held_by(context, parts[1:], "from_pretrained") if p.requires_grad]
        if wrong:
            yield context.finding(
                self,
                f"from_pretrained makes a new layer, and it is dropped here: {context.names(wrong)} "
                f"{agree(wrong, 'keep')} the old values and {agree(wrong, 'train')}.",
                at=function.location(call),
                parameters=wrong,
                fix=Fix("Use the result: assign it to the attribute."),
            )


_ON_ITSELF = "Freeze the parameter itself: p.requires_grad = False."


def _flag_of_another(statement: ast.stmt) -> ast.expr | None:
    """The tensor that a statement means to freeze by way of its ``.data`` or a dropped ``detach()``."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    if isinstance(statement, ast.Assign) and isinstance(statement.value, ast.Constant) and not statement.value.value:
        value = statement.targets[0]
        if not isinstance(value, ast.Attribute) or value.attr != "requires_grad":
            return None
        data = value.value
        return data.value if isinstance(data, ast.Attribute) and data.attr == "data" else None
    if not isinstance(value, ast.Call) or not isinstance(value.func, ast.Attribute):
        return None
    if value.func.attr == "detach" and not value.args:
        return value.func.value
    inner = value.func.value
    if value.func.attr == "requires_grad_" and isinstance(inner, ast.Attribute) and inner.attr == "data":
        return inner.value
    return None


def _another(statement: ast.stmt, names: str, train: str) -> str:
    if any(isinstance(n, ast.Attribute) and n.attr == "data" for n in ast.walk(statement)):
        return f".data is another tensor, made anew each time, and its flag is nobody's: {names} {train}."
    return f"detach() gives a new tensor, and it is dropped here: {names} {train}."


def _copied_before_forward(context: Context) -> dict[tuple[str, int], list[Parameter]]:
    """Line → the parameters whose ``.data`` or ``detach()`` was taken there before the forward."""
    trace = context.trace
    found: dict[tuple[str, int], list[Parameter]] = {}
    for op in trace.ops[: trace.forward_start]:
        owner = trace.owners.get(op.inputs[0]) if op.inputs and op.name in ("data", "detach") else None
        where = trace.location(op.site) if owner is not None else None
        if owner is not None and where is not None:
            found.setdefault((where.path, where.line), []).append(trace.parameters[owner])
    return found


def _is_name(value: ast.expr) -> bool:
    if isinstance(value, ast.Tuple | ast.List):
        return all(_is_name(v) for v in value.elts)
    return isinstance(value, ast.Attribute | ast.Subscript | ast.Name) and bool(dotted(value))


def _held_by(context: Context, parts: list[str], class_method: str = "") -> list[Parameter]:
    """The parameters of the modules whose names end so; only of classes with that class method, if one is given."""
    trace = context.trace
    found: list[Parameter] = []
    for module in trace.modules:
        if not parts or not module.in_tree or module.fqn.split(".")[-len(parts) :] != parts:
            continue
        if class_method and not isinstance(inspect.getattr_static(module.type, class_method, None), classmethod):
            continue
        found += trace.below(module)
    return found


def _named_modules(module: SourceModule, region: Region) -> list[ast.expr]:
    """The targets of the assignments that a block consists of, if all are of modules; otherwise none."""
    found: list[ast.expr] = []
    for statement in region.body:
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return []
        target, value = statement.targets[0], statement.value
        if not isinstance(value, ast.Name | ast.Attribute) or not isinstance(target, ast.Name | ast.Attribute):
            return []
        if not _is_module(module, target, value):
            return []
        found.append(target)
    return found


def _is_module(module: SourceModule, target: ast.expr, value: ast.expr) -> bool:
    """Whether a module is assigned: a known one, or an argument under a name that the class calls as a layer."""
    kind = module.kind(value)
    if kind is not None:
        return kind.module
    owner = module_class(module, target)
    name = own_attribute(target, owner[1]) if owner is not None else ""
    if owner is None or not name or not isinstance(value, ast.Name):
        return False
    if not all(isinstance(b, ast.arg) for b in module.tree.bindings(value)):
        return False
    calls = (module.tree.parents.get(use) for use in module.tree.attributes[name] if owner[0] in module.tree.above(use))
    return any(isinstance(c, ast.Call) and isinstance(c.func, ast.Attribute) and c.func.attr == name for c in calls)
