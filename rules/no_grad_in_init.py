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
    frozen_elsewhere,
    grad_off_bindings,
    in_grad_off,
    inflect,
    is_project,
    module_class,
    own_attribute,
    region_location,
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
        for region, bound in grad_off_bindings(module):
            made = [(target, value) for target, value in bound if _computed(value)]
            if made and all(_new_layer(module, v) and _stays(module, region, t) for t, v in made):
                names = [module.text(target) for target, _ in made]
                yield module.finding(
                    self,
                    f"{', '.join(names)} {inflect(names, 'still train')}: grad mode does not matter to the creation of "
                    f"layers, so this {region.how} freezes nothing.{_extra(region.how)}",
                    region.expression,
                    related=[module.related("created here", made[0][1])],
                    fix=_FIX,
                )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        created: dict[Location | None, list[tuple[Parameter, Event]]] = {}
        regions: dict[Location | None, Event] = {}
        for parameter in trace.parameters:
            first = next((e for e in parameter.history if e.kind == "register"), None)
            if first is None or first.region < 0 or not parameter.requires_grad:
                continue
            region = trace.events[first.region]
            # GL106 speaks of a mode that is left off; how a library makes or loads layers is its own affair
            if first.region not in trace.left_off and not _of_library(context, region):
                where = region_location(trace, region)
                created.setdefault(where, []).append((parameter, first))
                regions[where] = region
        for where, members in created.items():
            if any(_written_on_purpose(context, p, first) for p, first in members):
                continue
            how = regions[where].data["how"]
            parameters = [p for p, _ in members]
            yield context.finding(
                self,
                f"{context.names(parameters)} {inflect(parameters, 'still train')}: grad mode does not matter to the "
                f"creation of layers, so this {how} freezes nothing.{_extra(how)}",
                at=where,
                parameters=parameters,
                related=[context.related("created here", members[0][1])],
                fix=_FIX,
            )


def _extra(how: str) -> str:
    if how != "inference_mode":
        return ""
    return " Created under inference_mode they are inference tensors, which training cannot use."


def _computed(value: ast.expr) -> bool:
    """Whether a value is more than a number or a name."""
    return any(isinstance(n, ast.Call | ast.Await | ast.Yield | ast.BinOp) for n in ast.walk(value))


def _new_layer(module: SourceModule, value: ast.expr) -> bool:
    """Whether a call makes a layer that trains out of layers, numbers and names: no tensor is computed for it."""
    kind = module.kind(value)
    calls = [n for n in ast.walk(value) if isinstance(n, ast.Call)]
    return (
        kind is not None and kind.made is value and trains(module, value)
        and all(module.kind(call) is not None for call in calls)
    )  # fmt: skip


def _stays(module: SourceModule, region: Region, target: ast.expr) -> bool:
    """Whether nothing in the file freezes what is made, and training of it is meant."""
    if frozen_elsewhere(module, target, region.node):
        return False
    owner = module_class(module, target)
    if owner is not None and (name := own_attribute(target, owner[1])):
        # run without gradient everywhere else too: a fixed extractor, whatever its flags say
        inside = set(ast.walk(region.node))
        return not any(in_grad_off(module, use) for use in module.tree.attributes[name] if use not in inside)
    function = module.tree.function(target)
    kinds = [module.kind(node) for node in ast.walk(function)] if function is not None else []
    return isinstance(target, ast.Name) and any(k is not None and k.what == "optimizer" for k in kinds)


def _of_library(context: Context, region: Event) -> bool:
    """Whether a library switched grad mode off, in its own code or for a function of its own."""
    decorated = region.data["decorated"]
    return not context.by_user(region.site) or (decorated is not None and not is_project(decorated.co_filename))


def _written_on_purpose(context: Context, parameter: Parameter, first: Event) -> bool:
    """Whether the region wrote to the parameter other than in the constructor that made it, or computed its value."""
    if parameter.computed:
        return True
    writes = [e for e in parameter.history if e.kind == "write" and e.region == first.region and e.site != first.site]
    return not all(_below_region(context, write, first) for write in writes)


def _below_region(context: Context, event: Event, first: Event) -> bool:
    """Whether a constructor that both events are in was itself called inside the region."""
    rows = context.trace.sites.rows
    region = context.trace.events[first.region]
    shared = _constructors(rows, event.site) & _constructors(rows, first.site)
    inside = shared - _constructors(rows, region.site)
    return any(code != id(region.data["decorated"]) for code, _ in inside)


def _constructors(rows: list[tuple], site: int) -> set[tuple[int, int]]:  # type: ignore[type-arg]
    """The constructor frames of a chain: (identity of the code, chain above)."""
    found = set()
    while site >= 0:
        code, _, above = rows[site]
        if code.co_name == "__init__":
            found.add((id(code), above))
        site = above
    return found
