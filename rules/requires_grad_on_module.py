"""GL102 requires-grad-on-module."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Location,
    Module,
    Parameter,
    Rule,
    Severity,
    Write,
    agree,
    attribute_writes,
    best_write,
)


class RequiresGradOnModule(Rule):
    """`module.requires_grad = False` freezes nothing.

    ## What it does
    Finds modules that were given a plain attribute `requires_grad` which their parameters do not follow.

    ## Why it is bad
    `nn.Module` has no such property: the assignment makes a new Python attribute, and every parameter of the module
    trains on.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad = False
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent on classes that define the property themselves, that use the attribute as an option of their own, and where
    the parameters are as the attribute says anyway.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL102"
    name = "requires-grad-on-module"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        writes = [w for w in attribute_writes(trace, "requires_grad") if not _is_option(w)]
        parameters_set = {trace.location(e.site) for e in trace.events if e.kind in ("freeze", "thaw")}
        lines = {place.line for place in parameters_set if place is not None}
        writes = [w for w in writes if w.location.line not in lines]
        groups: dict[Location, tuple[Write, list[Module], list[Parameter]]] = {}
        for module in trace.modules:
            value = vars(module.module).get("requires_grad") if module.in_tree and module.module is not None else None
            if not isinstance(value, bool) or hasattr(module.type, "requires_grad"):
                continue
            wrong = [p for p in trace.below(module) if p.requires_grad != value and p.tensor.requires_grad != value]
            write = best_write(writes, module.fqn)
            if wrong and write is not None:
                _, modules, parameters = groups.setdefault(write.location, (write, [], []))
                modules.append(module)
                parameters += wrong
        for where, (write, modules, parameters) in groups.items():
            value = bool(vars(modules[0].module)["requires_grad"])
            still = agree(parameters, "stay") + " frozen" if value else agree(parameters, "still train")
            yield context.finding(
                self,
                f"{context.names(parameters)} {still}: an nn.Module has no requires_grad, so this only makes a Python "
                f"attribute.",
                at=where,
                parameters=parameters,
                fix=_fix(write, value),
            )


def _is_option(write: Write) -> bool:
    """Whether a class sets it on itself and reads it somewhere: an option of its own that happens to have the name."""
    function = write.function
    own = function.self_name
    if not own or not isinstance(write.base, ast.Name) or write.base.id != own:
        return False
    return any(
        isinstance(n, ast.Attribute)
        and n.attr == "requires_grad"
        and isinstance(n.ctx, ast.Load)
        and isinstance(n.value, ast.Name)
        and n.value.id == own
        for n in ast.walk(function.module_tree)
    )


def _fix(write: Write, value: bool) -> Fix:
    edits: tuple[Edit, ...] = ()
    if write.simple and write.value is not None:
        text = f"{write.function.text(write.base)}.requires_grad_({write.function.text(write.value)})"
        edits = (Edit(write.location, text),)
    return Fix(f"Call requires_grad_({value}) on the module.", safe=bool(edits), edits=edits)
