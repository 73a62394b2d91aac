"""GL110 no-op-freeze."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity, SourceContext, SourceModule
from gradlint.flow import region_location
from gradlint.rulekit import executed_nodes, inflect
from gradlint.source import (
    Function,
    frozen_elsewhere,
    grad_off_bindings,
    is_flag_set,
    module_class,
    name_parts,
    own_attribute,
    value_of,
)
from gradlint.traces import GradModeOff
from gradlint.traces.dataflow import indices, union


class NoOpFreeze(Rule):
    """A line that is meant to freeze or load, and does nothing.

    ## What it does
    Finds three statements without effect:

    - a grad-mode region that only assigns names, as `with torch.no_grad(): self.body = body`, or `features = h`
    - `from_pretrained` called on a layer, with the result dropped
    - a freeze of another tensor over the same values: `p.data.requires_grad = False`, or `p.detach()` as a statement

    ## Why it is bad
    Grad mode concerns operations, and the block has none: the assigned layer trains on. `from_pretrained` is a class
    method that returns a new layer. The layer it is called on stays trainable, with random weights. `.data` and
    `detach()` return a new tensor each time, and a flag set on it is lost.

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
    Not reported for blocks that call or write anything, and for parameters that are frozen otherwise. Nor for classes
    whose `from_pretrained` is a method of the instance. In a source file alone, a block is judged only if all its names
    are certainly modules.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html#torch.nn.Embedding.from_pretrained
    """

    code = "GL110"
    name = "no-op-freeze"
    severity = Severity.WARNING
    source_prefilter = ("no_grad|inference_mode|set_grad_enabled|from_pretrained|data.requires_grad",)
    recording_overrides_source = True

    MESSAGE_REGION = "this block only assigns names and freezes nothing: {parameters} {still_train}."
    MESSAGE_DROPPED = "from_pretrained() returns a new layer, which is dropped here: {parameters} {stay} as before."
    MESSAGE_DATA = ".data returns a new tensor, and only that one gets requires_grad=False: {parameters} {still_train}."
    MESSAGE_DETACH = "detach() returns a new tensor, which is dropped here: {parameters} {still_train}."
    MESSAGE_ALIAS = "this block only gives {source} another name, and gradient still flows through it to {parameters}."
    RELATED_COMPUTED = "computed here, with a gradient"
    FIX_ALIAS = "Detach it: {alias} = {source}.detach()."
    FIX_REGION = "Call requires_grad_(False) on the layers to freeze."
    FIX_DROPPED = "Use the result: assign it to the attribute."
    FIX_FLAG = "Freeze the parameter itself: p.requires_grad = False."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for region, bindings in grad_off_bindings(module):
            if not isinstance(region.node, ast.With) or not all(_is_module(module, t, v) for t, v in bindings):
                continue
            if not any(frozen_elsewhere(module, target, region.node) for target, _ in bindings):
                names = [module.text(target) for target, _ in bindings]
                text = self.MESSAGE_REGION.format(
                    parameters=", ".join(names), still_train=inflect(names, "still train")
                )
                yield context.finding(self, text, region.expression, fix=Fix(self.FIX_REGION))
        for statement in (*module.stated(ast.Expr), *module.stated(ast.Assign)):
            for layer in _loaded_in_vain(statement):
                kind = module.kind(layer)
                if kind is not None and kind.cls in ("torch.nn.Embedding", "torch.nn.EmbeddingBag"):
                    text = self.MESSAGE_DROPPED.format(parameters=module.text(layer), stay="stays")
                    yield context.finding(self, text, statement, fix=Fix(self.FIX_DROPPED))
            for tensor, message in self._frozen_in_vain(statement):
                kind = module.kind(tensor)
                if kind is not None and kind.what == "parameter" and not is_flag_set(module, tensor):
                    text = message.format(parameters=module.text(tensor), still_train="still trains")
                    yield context.finding(self, text, statement, fix=Fix(self.FIX_FLAG))

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        read = _read_before_forward(context)
        regions = [region_location(trace, e) for e in trace.events_of(GradModeOff)]
        lines = {(place.path, place.line) for place in regions if place is not None}
        for function, node in executed_nodes(trace):
            if isinstance(node, ast.With) and (function.module.path, node.lineno) in lines:
                yield from self._region(context, function, node)
            elif isinstance(node, ast.Expr | ast.Assign):
                yield from self._flag(context, function, node, read.get((function.module.path, node.lineno), ()))
                yield from self._dropped(context, function, node)

    def _region(self, context: Context, function: Function, node: ast.With) -> Iterator[Finding]:
        targets: list[ast.expr] = []
        for statement in node.body:
            if not isinstance(statement, ast.Assign) or not all(name_parts(v) for v in _elements(statement.value)):
                return
            targets += (part for target in statement.targets for part in _elements(target))
        modules = [m for target in targets for m in _modules_named(context, name_parts(target)[-1:])]
        hit = [p for m in modules for p in context.trace.below(m) if p.requires_grad]
        if hit:
            yield context.finding(
                self,
                context.fill(self.MESSAGE_REGION, hit),
                at=function.module.location(node.items[0].context_expr),
                parameters=hit,
                fix=Fix(self.FIX_REGION),
            )
        else:
            yield from self._aliases(context, function, node)

    def _aliases(self, context: Context, function: Function, region: ast.With) -> Iterator[Finding]:
        """Yield a finding if a block only renames tensors, and the loss gets their gradient."""
        for statement in region.body:
            match statement:
                case ast.Assign(targets=[ast.Name(id=alias)], value=ast.Name(id=source) as name):
                    computed = value_of(function.module, name)
                case _:
                    return
            after = {n.id for n in function.nodes() if isinstance(n, ast.Name) and n.lineno > (region.end_lineno or 0)}
            if computed is None or alias not in after or source in after:
                return
            hit = [p for p in _trained_through(context, function, computed) if p.requires_grad]
            if hit:
                yield context.finding(
                    self,
                    context.fill(self.MESSAGE_ALIAS, hit, source=source),
                    at=function.module.location(region.items[0].context_expr),
                    parameters=hit,
                    related=[context.related(self.RELATED_COMPUTED, function.module.location(computed))],
                    fix=Fix(self.FIX_ALIAS.format(alias=alias, source=source)),
                )

    def _flag(
        self, context: Context, function: Function, statement: ast.stmt, read: Iterable[Parameter]
    ) -> Iterator[Finding]:
        hit = [p for p in read if p.requires_grad]
        for _, message in self._frozen_in_vain(statement) if hit else ():
            text = context.fill(message, hit)
            where = function.module.location(statement)
            yield context.finding(self, text, at=where, parameters=hit, fix=Fix(self.FIX_FLAG))

    def _dropped(self, context: Context, function: Function, statement: ast.stmt) -> Iterator[Finding]:
        for layer in _loaded_in_vain(statement):
            for module in _modules_named(context, name_parts(layer)[1:]):
                if module.type.has_from_pretrained:
                    hit = context.trace.below(module)
                    text = context.fill(self.MESSAGE_DROPPED, hit)
                    where = function.module.location(statement)
                    yield context.finding(self, text, at=where, parameters=hit, fix=Fix(self.FIX_DROPPED))

    def _frozen_in_vain(self, statement: ast.stmt) -> Iterator[tuple[ast.expr, str]]:
        """Yield (tensor, message) if a statement sets the flag of another tensor over its values."""
        match statement:
            case (
                ast.Assign(
                    targets=[ast.Attribute(value=ast.Attribute(value=tensor, attr="data"), attr="requires_grad")],
                    value=ast.Constant(value=False),
                )
                | ast.Expr(
                    value=ast.Call(
                        func=ast.Attribute(value=ast.Attribute(value=tensor, attr="data"), attr="requires_grad_")
                    )
                )
            ):
                yield tensor, self.MESSAGE_DATA
            case ast.Expr(value=ast.Call(func=ast.Attribute(value=tensor, attr="detach"))):
                yield tensor, self.MESSAGE_DETACH


def _loaded_in_vain(statement: ast.stmt) -> Iterator[ast.expr]:
    """Yield the layer whose ``from_pretrained`` a statement calls without using the result."""
    match statement:
        case ast.Expr(value=ast.Call(func=ast.Attribute(value=layer, attr="from_pretrained"))):
            yield layer


def _read_before_forward(context: Context) -> dict[tuple[str, int], list[Parameter]]:
    """Return the parameters that each line reads before the forward, by (path, line)."""
    trace = context.trace
    lines: dict[tuple[str, int], list[Parameter]] = {}
    for op in trace.ops[: trace.forward_start]:
        where = trace.location(op.site)
        if where is not None:
            read = (trace.parameters[trace.owners[v]] for v in op.inputs if v in trace.owners)
            lines.setdefault((where.path, where.line), []).extend(read)
    return lines


def _trained_through(context: Context, function: Function, computed: ast.expr) -> list[Parameter]:
    """Return the parameters that the loss reaches through the result of an expression."""
    trace, flow = context.trace, context.flow
    lines = range(computed.lineno, (computed.end_lineno or computed.lineno) + 1)
    for op in reversed(trace.ops[trace.forward_start :]):
        frames = (f for f in trace.sites.chain(op.site) if f.path == function.module.path)
        if op.outputs and any(frame.location.line in lines for frame in frames):
            live = union(flow.masks.live, [value for value in op.outputs if value in flow.on_path])
            return flow.by_index(indices(live))
    return []


def _elements(expression: ast.expr) -> list[ast.expr]:
    """Return the elements of a written tuple or list; any other expression by itself."""
    return expression.elts if isinstance(expression, ast.Tuple | ast.List) else [expression]


def _modules_named(context: Context, parts: list[str]) -> list[Module]:
    """Return the modules whose fqns end in these parts."""
    return [m for m in context.trace.modules if m.fqn.split(".")[-len(parts) :] == parts]


def _is_module(module: SourceModule, target: ast.expr, value: ast.expr) -> bool:
    """Return True if a name is assigned a module, or an argument that the class calls as one."""
    kind = module.kind(value)
    if kind is not None:
        return kind.module and bool(name_parts(value))
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
