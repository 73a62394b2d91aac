"""GL110 no-op-freeze."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gradlint import (
    Context,
    Finding,
    Fix,
    Function,
    Module,
    Parameter,
    Rule,
    Severity,
    SourceModule,
    dotted,
    executed_functions,
    frozen_elsewhere,
    grad_off_bindings,
    inflect,
    module_class,
    own_attribute,
    region_location,
    spelled,
)


class NoOpFreeze(Rule):
    """A line that means to freeze or load, and does nothing.

    ## What it does
    Finds grad-mode regions that hold nothing but assignments of names (`with torch.no_grad(): self.body = body`),
    `from_pretrained` called on a layer with the result dropped, and parameters frozen through another tensor over the
    same values: `p.data.requires_grad = False`, `p.detach()` as a statement.

    ## Why it is bad
    Grad mode concerns operations, and there are none in the block: what is assigned trains on. `from_pretrained` is a
    class method that returns a new layer: the layer it is called on stays as it was, trainable and with random weights.
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
        for region, bound in grad_off_bindings(module):
            if not isinstance(region.node, ast.With) or not all(_is_module(module, t, v) for t, v in bound):
                continue
            if not any(frozen_elsewhere(module, target, region.node) for target, _ in bound):
                names = ", ".join(module.text(target) for target, _ in bound)
                yield module.finding(
                    self,
                    f"this block only gives names to what exists, so it freezes nothing: what is now {names} still "
                    f"trains.",
                    region.expression,
                    fix=_FREEZE,
                )
        for statement in module.stated(ast.Expr):
            for layer in _given_another(statement):
                kind = module.kind(layer)
                if kind is not None and kind.cls in ("torch.nn.Embedding", "torch.nn.EmbeddingBag"):
                    yield module.finding(self, _dropped(module.text(layer), "stays"), statement, fix=_USE)
        for flagged in (*module.stated(ast.Expr), *module.stated(ast.Assign)):
            for named, why in _flag_of_another(flagged):
                kind = module.kind(named)
                if kind is not None and kind.what == "parameter" and not _flagged_itself(module, named):
                    text = f"{why}: {module.text(named)} still trains."
                    yield module.finding(self, text, flagged, fix=_ON_ITSELF)

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        read = _read_before_forward(context)
        regions = {region_location(trace, e) for e in trace.events_of("grad_off")}
        lines = {(place.path, place.line) for place in regions if place is not None}
        for function in executed_functions(trace):
            for node in function.nodes():
                if isinstance(node, ast.With) and (function.path, node.lineno) in lines:
                    yield from self._region(context, function, node)
                elif isinstance(node, ast.Expr | ast.Assign):
                    yield from self._flagged(context, function, node, read.get((function.path, node.lineno), ()))
                    yield from self._dropped(context, function, node)

    def _region(self, context: Context, function: Function, node: ast.With) -> Iterator[Finding]:
        targets: list[ast.expr] = []
        for statement in node.body:
            if not isinstance(statement, ast.Assign) or not all(dotted(value) for value in _parts(statement.value)):
                return
            targets += (part for target in statement.targets for part in _parts(target))
        named = [m for t in targets for m in _named(context, dotted(t)[-1:])]
        wrong = [p for m in named for p in context.trace.below(m) if p.requires_grad]
        if wrong:
            yield context.finding(
                self,
                f"this block only gives names to what exists, so it freezes nothing: {context.names(wrong)} "
                f"{inflect(wrong, 'still train')}.",
                at=function.location(node.items[0].context_expr),
                parameters=wrong,
                fix=_FREEZE,
            )

    def _flagged(
        self, context: Context, function: Function, statement: ast.stmt, read: Iterable[Parameter]
    ) -> Iterator[Finding]:
        wrong = [p for p in read if p.requires_grad]
        for _, why in _flag_of_another(statement):
            if wrong:
                text = f"{why}: {context.names(wrong)} {inflect(wrong, 'still train')}."
                yield context.finding(self, text, at=function.location(statement), parameters=wrong, fix=_ON_ITSELF)

    def _dropped(self, context: Context, function: Function, statement: ast.stmt) -> Iterator[Finding]:
        for layer in _given_another(statement):
            for module in _named(context, dotted(layer)[1:]):
                if module.type.has_from_pretrained:
                    kept = context.trace.below(module)
                    text = _dropped(context.names(kept), inflect(kept, "stay"))
                    yield context.finding(self, text, at=function.location(statement), parameters=kept, fix=_USE)


_FREEZE = Fix("Call requires_grad_(False) on what is meant to stay.")
_USE = Fix("Use the result: assign it to the attribute.")
_ON_ITSELF = Fix("Freeze the parameter itself: p.requires_grad = False.")
_DATA = ".data is another tensor, made anew each time, and its flag is nobody's"


def _dropped(names: str, stay: str) -> str:
    return f"from_pretrained makes a new layer, and it is dropped here: {names} {stay} as before, in value and in flag."


def _given_another(statement: ast.stmt) -> Iterator[ast.expr]:
    """The layer that a statement means to load by its ``from_pretrained``, without using the result."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=layer, attr="from_pretrained"))):
            yield layer


def _flag_of_another(statement: ast.stmt) -> Iterator[tuple[ast.expr, str]]:
    """The tensor that a statement means to freeze by way of another one over the same values, and why it does not."""
    match statement:
        case ast.Assign(
            targets=[ast.Attribute(value=ast.Attribute(value=named, attr="data"), attr="requires_grad")],
            value=ast.Constant(value=False),
        ):
            yield named, _DATA
        case ast.Expr(
            value=ast.Call(func=ast.Attribute(value=ast.Attribute(value=named, attr="data"), attr="requires_grad_"))
        ):
            yield named, _DATA
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=named, attr="detach"))):
            yield named, "detach() gives a new tensor, and it is dropped here"


def _flagged_itself(module: SourceModule, named: ast.expr) -> bool:
    """Whether the same function sets the flag of the tensor itself as well."""
    attributes = module.tree.attributes
    written = [n for n in attributes.get("requires_grad", ()) if isinstance(n.ctx, ast.Store)]
    return any(
        module.tree.function(node) is module.tree.function(named) and spelled(node.value) == spelled(named)
        for node in (*written, *attributes.get("requires_grad_", ()))
    )


def _read_before_forward(context: Context) -> dict[tuple[str, int], list[Parameter]]:
    """Line → the parameters that were read there before the forward."""
    trace = context.trace
    found: dict[tuple[str, int], list[Parameter]] = {}
    for op in trace.ops[: trace.forward_start]:
        where = trace.location(op.site)
        if where is not None:
            read = [trace.parameters[trace.owners[v]] for v in op.inputs if v in trace.owners]
            found.setdefault((where.path, where.line), []).extend(read)
    return found


def _parts(expression: ast.expr) -> list[ast.expr]:
    """The elements of a written tuple or list; anything else as it is."""
    return expression.elts if isinstance(expression, ast.Tuple | ast.List) else [expression]


def _named(context: Context, parts: list[str]) -> list[Module]:
    """The modules whose names end so."""
    return [m for m in context.trace.modules if m.fqn.split(".")[-len(parts) :] == parts]


def _is_module(module: SourceModule, target: ast.expr, value: ast.expr) -> bool:
    """Whether a name is given to a module: a known one, or an argument under a name that the class calls as a layer."""
    kind = module.kind(value)
    if kind is not None:
        return kind.module and bool(dotted(value))
    owner = module_class(module, target)
    if owner is None or not isinstance(value, ast.Name):
        return False
    if not all(isinstance(b, ast.arg) for b in module.tree.bindings(value)):
        return False
    for use in module.tree.attributes.get(own_attribute(target, owner[1]), ()):
        call = module.tree.parents.get(use)
        if isinstance(call, ast.Call) and call.func is use and owner[0] in module.tree.above(use):
            return True
    return False
