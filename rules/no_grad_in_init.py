"""GL101 no-grad-in-init."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import (
    Context,
    Event,
    Finding,
    Fix,
    Location,
    Parameter,
    Region,
    Rule,
    Severity,
    SourceModule,
    agree,
    frozen_elsewhere,
    grad_off_regions,
    in_grad_off,
    is_project,
    may_bind_in_grad_off,
    module_class,
    own_attribute,
    region_location,
    says_nothing,
    trains,
)

_FIX = Fix("Create the layer outside of the block; to freeze it, call requires_grad_(False) on it.")


class NoGradInInit(Rule):
    """Layers created under `no_grad` still train.

    ## What it does
    Finds layers and `nn.Parameter`s that were created while grad mode was off (`no_grad`, `inference_mode`,
    `set_grad_enabled(False)`; as `with` or decorator) and whose parameters require grad all the same.

    ## Why it is bad
    Grad mode decides whether *operations* are recorded. `nn.Parameter` sets `requires_grad=True` whatever the mode, so
    the block freezes nothing and the layer trains. Under `inference_mode` it is worse: the parameters become inference
    tensors, and the first training step that saves them for backward fails.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.base = nn.Linear(3, 3)
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.base(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(2, 3),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = nn.Linear(3, 3).requires_grad_(False)
            self.head = nn.Linear(3, 1)

        def forward(self, x):
            return self.head(self.base(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(2, 3),)}
    ```

    ## Known limits
    Silent where the region also writes to the new parameters outside their own constructor (`new.weight[:, :3] =
    old.weight`, `nn.init` calls): such a region has a purpose. Layers made before the recording are not seen. In a
    source file alone, regions in the methods of an `nn.Module` are judged, and in functions that make an optimizer too.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "GL101"
    name = "no-grad-in-init"
    severity = Severity.ERROR
    marks = ("no_grad|inference_mode|set_grad_enabled",)
    recording_decides = True

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        if not may_bind_in_grad_off(module):
            return
        for region in grad_off_regions(module):
            made = _made_only(module, region)
            names = [module.text(t) for t, value in made if _stays(module, region, t, value)]
            if not made or len(names) < len(made):
                continue
            still = "still train" if len(names) > 1 else "still trains"
            yield module.finding(
                self,
                f"{', '.join(names)} {still}: grad mode does not matter to the creation of layers, so this "
                f"{region.how} freezes nothing.{_extra(region.how)}",
                region.expression,
                related=[module.related("created here", made[0][1])],
                fix=_FIX,
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        created: dict[Location, list[Parameter]] = {}
        regions: dict[Location, Event] = {}
        for parameter in trace.parameters:
            first = next((e for e in parameter.history if e.kind == "register"), None)
            if first is None or not first.data["first"] or first.region < 0 or not parameter.requires_grad:
                continue
            if first.region in trace.left_off:
                continue  # GL106 speaks
            region = trace.events[first.region]
            holder = trace.sites.innermost(region.site)
            if holder is None or not holder.project:
                continue  # how a library makes or loads layers
            where = region_location(trace, region)
            if where is None or not is_project(where.path) or _written_on_purpose(context, parameter, first):
                continue
            created.setdefault(where, []).append(parameter)
            regions[where] = region
        for where, parameters in created.items():
            how = regions[where].data["how"]
            if any(_written_on_purpose(context, p, p.history[0]) for p in parameters):
                continue
            yield context.finding(
                self,
                f"{context.names(parameters)} {agree(parameters, 'still train')}: grad mode does not matter to the "
                f"creation of layers, so this {how} freezes nothing.{_extra(how)}",
                at=where,
                parameters=parameters,
                related=[context.related("created here", p.history[0]) for p in parameters[:1]],
                fix=_FIX,
            )


def _extra(how: str) -> str:
    if how != "inference_mode":
        return ""
    return " Created under inference_mode they are inference tensors, which training cannot use."


def _made_only(module: SourceModule, region: Region) -> list[tuple[ast.expr, ast.expr]]:
    """(target, call) for each layer that a region makes, if it does nothing else; otherwise none."""
    found: list[tuple[ast.expr, ast.expr]] = []
    pending = list(region.body)
    while pending:
        statement = pending.pop(0)
        if isinstance(statement, ast.Pass) or says_nothing(statement):
            continue
        if not isinstance(statement, ast.Assign) or len(statement.targets) != 1:
            return []
        value = statement.value
        if not any(isinstance(n, ast.Call | ast.Await | ast.Yield | ast.BinOp) for n in ast.walk(value)):
            continue  # a number, a name
        kind = module.kind(value)
        if kind is None or kind.made is not value or not trains(module, value) or not _constructs(module, value):
            return []
        found.append((statement.targets[0], value))
    return found


def _constructs(module: SourceModule, value: ast.expr) -> bool:
    """Whether all that a call is given are other layers, numbers and names: no tensor is computed for it."""
    for node in ast.walk(value):
        if isinstance(node, ast.Call) and node is not value:
            kind = module.kind(node)
            if kind is None or kind.what not in ("module", "tensor"):
                return False
    return True


def _stays(module: SourceModule, region: Region, target: ast.expr, value: ast.expr) -> bool:
    """Whether nothing in the file freezes what is made, and training of it is meant."""
    if frozen_elsewhere(module, target, region.node):
        return False
    owner = module_class(module, target)
    if owner is not None and (name := own_attribute(target, owner[1])):
        # run without gradient everywhere else too: a fixed extractor, whatever its flags say
        inside = set(ast.walk(region.node))
        return not any(in_grad_off(module, use) for use in module.tree.attributes[name] if use not in inside)
    function = module.tree.function(target)
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call)] if function is not None else []
    kinds = [module.kind(call) for call in calls]
    return isinstance(target, ast.Name) and any(k is not None and k.what == "optimizer" for k in kinds)


def _written_on_purpose(context: Context, parameter: Parameter, first: Event) -> bool:
    """Whether the region wrote to the parameter other than in the constructor that made it, or computed its value."""
    if parameter.computed:
        return True
    rows = context.trace.sites.rows
    for event in parameter.history:
        if event.kind != "write" or event.region != first.region or event.site == first.site:
            continue
        if not _constructors(rows, event.site) & _constructors(rows, first.site):
            return True
        if not _below_region(context, event, first):
            return True
    return False


def _constructors(rows: list[tuple], site: int) -> set[tuple[int, int]]:  # type: ignore[type-arg]
    """The constructor frames of a chain: (identity of the code, chain above)."""
    found = set()
    while site >= 0:
        code, _, above = rows[site]
        if code.co_name == "__init__":
            found.add((id(code), above))
        site = above
    return found


def _below_region(context: Context, event: Event, first: Event) -> bool:
    """Whether a constructor that both events are in was itself called inside the region."""
    rows = context.trace.sites.rows
    region = context.trace.events[first.region]
    outer = _constructors(rows, region.site)
    decorated = region.data["decorated"]
    shared = _constructors(rows, event.site) & _constructors(rows, first.site)
    return any(c not in outer and (decorated is None or c[0] != id(decorated)) for c in shared)
