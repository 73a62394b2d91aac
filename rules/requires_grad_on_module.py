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
    SourceModule,
    Write,
    attribute_writes,
    best_write,
    freezes,
    inflect,
    spelled,
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
    marks = ("requires_grad",)
    blames = r"requires_grad"
    recording_decides = True

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for node in module.tree.attributes.get("requires_grad", ()):
            statement = module.tree.parents.get(node)
            if not isinstance(statement, ast.Assign):
                continue
            kind = module.kind(node.value)
            if kind is None or not kind.module or _has_property(module, kind.cls):
                continue
            if _read_as_option(module, node, statement) or _said_too(module, node):
                continue
            text = module.text(node.value)
            call = f"requires_grad_({module.text(statement.value)})"
            edits = (module.replace(statement, f"{text}.{call}"),) if len(statement.targets) == 1 else ()
            frozen = isinstance(statement.value, ast.Constant) and not statement.value.value
            if not frozen and not _freezes_something(module, node):
                continue  # what it says may well be so
            yield module.finding(
                self,
                f"{text} is an nn.Module, which has no requires_grad: this only makes a Python attribute, and its "
                f"parameters stay as they are.",
                statement,
                fix=Fix(f"Call {call} on the module.", safe=bool(edits), edits=edits),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        writes = [w for w in attribute_writes(trace, "requires_grad") if not _is_option(w)]
        of_parameters = {context.place(e) for e in trace.events if e.kind in ("freeze", "thaw")}
        writes = [w for w in writes if context.place(w.location) not in of_parameters]
        groups: dict[Location, tuple[Write, list[Module], list[Parameter]]] = {}
        for module in trace.modules:
            value = module.flags.get("requires_grad")
            if value is None:
                continue
            wrong = [p for p in trace.below(module) if value not in (p.requires_grad, p.requires_grad_after)]
            write = best_write(writes, module.fqn)
            if wrong and write is not None:
                _, modules, parameters = groups.setdefault(write.location, (write, [], []))
                modules.append(module)
                parameters += wrong
        for where, (write, modules, parameters) in groups.items():
            value = modules[0].flags["requires_grad"]
            still = inflect(parameters, "stay") + " frozen" if value else inflect(parameters, "still train")
            yield context.finding(
                self,
                f"{context.names(parameters)} {still}: an nn.Module has no requires_grad, so this only makes a Python "
                f"attribute.",
                at=where,
                parameters=parameters,
                fix=_fix(write, value),
            )


def _has_property(module: SourceModule, cls: str | ast.ClassDef | None) -> bool:
    """Whether a class, or where it is unknown any of the file, defines the name itself."""
    if isinstance(cls, str) and cls != "torch.nn.Module":
        return False
    classes = module.kinds.lineage(cls) if isinstance(cls, ast.ClassDef) else module.tree.nodes(ast.ClassDef)
    return any("requires_grad" in _members(c) for c in classes)


def _members(cls: ast.ClassDef) -> set[str]:
    """The names that a class body defines, and those it defines them by."""
    found: set[str] = set()
    for statement in cls.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(statement.name)
        else:
            found |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
    return found


def _read_as_option(module: SourceModule, node: ast.Attribute, statement: ast.Assign) -> bool:
    """Whether a class sets it on itself as an option of its own: from an argument, or read again from self."""
    if spelled(node.value) != "self":
        return False
    return not isinstance(statement.value, ast.Constant) or any(
        isinstance(use.ctx, ast.Load) and spelled(use.value) == "self"
        for use in module.tree.attributes["requires_grad"]
    )


def _said_too(module: SourceModule, node: ast.Attribute) -> bool:
    """Whether the same function sets the flag of the parameters of the same thing as well."""
    function = module.tree.function(node)
    return any(
        module.tree.function(place) is function
        and spelled(base) == spelled(node.value)
        and not _on_module(module, place)
        for base, place in freezes(module)
    )


def _freezes_something(module: SourceModule, node: ast.Attribute) -> bool:
    """Whether the same function freezes anything, which the statement may mean to take back."""
    function = module.tree.function(node)
    return any(
        module.tree.function(place) is function and not _on_module(module, place) for _, place in freezes(module)
    )


def _on_module(module: SourceModule, place: ast.AST) -> bool:
    """Whether a freeze is itself one that does nothing."""
    if not isinstance(place, ast.Attribute) or place.attr != "requires_grad":
        return False
    kind = module.kind(place.value)
    return kind is not None and kind.module


def _is_option(write: Write) -> bool:
    """Whether a class sets it on itself and reads it somewhere: an option of its own that happens to have the name."""
    own = write.function.self_name
    return spelled(write.base) == own and any(
        isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and spelled(n) == f"{own}.requires_grad"
        for n in ast.walk(write.function.module_tree)
    )


def _fix(write: Write, value: bool) -> Fix:
    edits: tuple[Edit, ...] = ()
    if write.simple:
        assert write.value is not None
        text = f"{write.function.text(write.base)}.requires_grad_({write.function.text(write.value)})"
        edits = (Edit(write.location, text),)
    return Fix(f"Call requires_grad_({value}) on the module.", safe=bool(edits), edits=edits)
