"""GL102 requires-grad-on-module."""

from __future__ import annotations

import ast
import re
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
    agree,
    attribute_writes,
    best_write,
    freezes,
    spelled,
)

_ASSIGNED = re.compile(r"\.\s*requires_grad\s*=[^=]")


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
        if not _ASSIGNED.search(module.source.text):
            return
        for node in module.tree.attributes.get("requires_grad", ()):
            statement = module.tree.parents.get(node)
            if not isinstance(statement, ast.Assign) or node not in statement.targets or not _flag(statement.value):
                continue
            kind = module.kind(node.value)
            if kind is None or not kind.module or _has_property(module, kind.cls):
                continue
            if _read_as_option(module, node) or _said_too(module, node):
                continue
            text = module.text(node.value)
            edits: tuple[Edit, ...] = ()
            if len(statement.targets) == 1:
                edits = (module.replace(statement, f"{text}.requires_grad_({module.text(statement.value)})"),)
            frozen = isinstance(statement.value, ast.Constant) and not statement.value.value
            if not frozen and not _freezes_something(module, node):
                continue  # what it says may well be so
            yield module.finding(
                self,
                f"{text} is an nn.Module, which has no requires_grad: this only makes a Python attribute, and "
                + ("its parameters still train." if frozen else "its parameters stay as they are."),
                statement,
                fix=Fix("Call requires_grad_ on the module.", safe=bool(edits), edits=edits),
            )

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


def _has_property(module: SourceModule, cls: str | ast.ClassDef | None) -> bool:
    """Whether a class, or where it is unknown any of the file, defines the name itself."""
    if isinstance(cls, str):
        return False
    classes = module.tree.nodes(ast.ClassDef) if cls is None else module.kinds.lineage(cls)
    return any("requires_grad" in _members(c) for c in classes)


def _members(cls: ast.ClassDef) -> set[str]:
    """The names that a class body defines."""
    found: set[str] = set()
    for statement in cls.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(statement.name)
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


def _flag(value: ast.expr) -> bool:
    """Whether a value is a truth value, written out or under a name."""
    return (isinstance(value, ast.Constant) and isinstance(value.value, bool)) or isinstance(value, ast.Name)


def _read_as_option(module: SourceModule, node: ast.Attribute) -> bool:
    """Whether a class sets it on itself as an option of its own: from an argument, or read again from self."""
    found = module.tree.method_of(node)
    own = isinstance(node.value, ast.Name) and (kind := module.kind(node.value)) is not None and kind.made is None
    if found is None or not own or not isinstance(node.value, ast.Name) or node.value.id != "self":
        return False
    statement = module.tree.parents.get(node)
    if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Constant):
        return True
    return any(
        isinstance(use.ctx, ast.Load) and isinstance(use.value, ast.Name) and use.value.id == "self"
        for use in module.tree.attributes["requires_grad"]
    )


def _said_too(module: SourceModule, node: ast.Attribute) -> bool:
    """Whether the same function sets the flag of the parameters of the same thing as well."""
    function = module.tree.function(node)
    return any(
        place is not node
        and module.tree.function(place) is function
        and spelled(base) == spelled(node.value)
        and module.tree.parents.get(place) is not module.tree.parents.get(node)
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
