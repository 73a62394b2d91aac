"""GL104 unregistered-submodule."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import TypeGuard

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Held,
    Parameter,
    Rule,
    Severity,
    SourceModule,
    assigned_at,
    in_grad_off,
    inflect,
    module_class,
    own_attribute,
    trains,
    variable_assigned_at,
)

_Container = ast.List | ast.ListComp | ast.Dict | ast.DictComp | ast.Tuple
_WALKERS = frozenset("enumerate zip reversed len range sum list tuple".split())
_REGISTER = frozenset("add_module register_module register_modules parameters named_parameters _modules".split())


class UnregisteredSubmodule(Rule):
    """Layers in a Python list are no part of the model.

    ## What it does
    Finds modules that ran in the forward and whose parameters get gradient, but that the model holds in a plain list,
    tuple, dict or object: `parameters()` does not contain them, and no optimizer holds them.

    ## Why it is bad
    They are never trained, never moved by `.to(device)`, not switched by `train()` and `eval()`, and not saved.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 4) for _ in range(2)]
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(x)

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            for layer in self.layers:
                x = layer(x).relu()
            return self.head(x)

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent on modules that an optimizer holds by themselves, that are frozen, or that gradient does not reach (a teacher
    hidden from `state_dict()` on purpose). Of what is held by a closure or a global, only that is known which the
    model's own methods name; the rest, and what only the loss runs, is GL302's. In a source file alone, lists and dicts
    of layers that are made where they are put in, and that the class itself walks and calls.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html
    """

    code = "GL104"
    name = "unregistered-submodule"
    severity = Severity.ERROR
    needs = frozenset({"forward"})
    marks = ("def __init__", "Module|PreTrainedModel|ModelMixin", "[|{")
    recording_decides = True

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for statement in module.assignments:
            target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
            value = statement.value
            if not isinstance(target, ast.Attribute) or not _may_hold(value):
                continue
            name, found = target.attr, module_class(module, target)
            if found is None or own_attribute(target, found[1]) != name:
                continue
            if len(module.kinds.attributes(found[0]).get(name, ())) != 1:
                continue
            held = _held(module, found[0], name, value)
            made = [h for h in held if trains(module, h)]
            # One layer in brackets is a known way to hide it from state_dict() on purpose.
            several = len(held) > 1 or isinstance(value, ast.ListComp | ast.DictComp) or _is_empty(value)
            if not made or not several or not _only_called(module, found[0], name):
                continue
            container = type(value).__name__.removesuffix("Comp").lower()
            yield module.finding(
                self,
                f"the layers in {name} run and are no part of the model: {name} is a plain {container}, which "
                f"registers nothing, so parameters() does not hold them.",
                statement,
                related=[module.related("made here", made[0])],
                fix=_fix(module, value, container),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[tuple[int, str, bool], list[Parameter]] = {}
        for parameter in context.flow.by_index(context.flow.unregistered):
            held: Held = trace.held[parameter.module]
            groups.setdefault((held.holder, held.attribute, held.variable), []).append(parameter)
        for (number, attribute, variable), parameters in groups.items():
            holder = trace.modules[number]
            made = next((e for p in parameters if (e := p.registered_by) is not None), None)
            if variable:
                where = trace.location(made.site) if made is not None else variable_assigned_at(trace, attribute)
                how = f"{holder.type.name} takes {attribute} from around its code"
            else:
                where = assigned_at(trace, holder.type.bases, attribute)
                how = f"{attribute} is a plain {trace.held[parameters[0].module].container}"
            yield context.finding(
                self,
                f"{context.names(parameters)} {inflect(parameters, 'run')} in the forward and "
                f"{inflect(parameters, 'are')} no part of the model: {how}, which registers nothing.",
                at=where if where is not None or made is None else made.site,
                parameters=parameters,
                related=[
                    context.related("made here", made),
                    *(context.related(f"{o.type} is made here, without them", o.site) for o in trace.optimizers[:1]),
                ],
                fix=Fix(
                    "Make it an attribute of the module."
                    if variable
                    else "Hold them in an nn.ModuleList or nn.ModuleDict."
                ),
                severity=None if where is not None or any(p.project for p in parameters) else Severity.INFO,
            )


def _may_hold(value: ast.expr | None) -> TypeGuard[_Container]:
    """Whether what an attribute is set to is a container of things made there, or an empty one, which may be filled
    later: a look that costs less than `_held`, which decides."""
    if not isinstance(value, _Container):
        return False
    return all(isinstance(part, ast.Call) for part in _written(value))


def _written(value: _Container) -> list[ast.expr]:
    """What a container is written to hold."""
    if isinstance(value, ast.List | ast.Tuple):
        return list(value.elts)
    if isinstance(value, ast.Dict):
        return list(value.values)
    return [value.elt] if isinstance(value, ast.ListComp) else [value.value]


def _is_empty(value: ast.expr) -> bool:
    """Whether a container is written empty, to be filled later."""
    return (isinstance(value, ast.List) and not value.elts) or (isinstance(value, ast.Dict) and not value.keys)


def _held(module: SourceModule, cls: ast.ClassDef, name: str, value: _Container) -> list[ast.expr]:
    """What a container is given; nothing where something may be put in that is not seen."""
    found = _written(value)
    for use in _uses(module, cls, name):
        parent = module.tree.parents[use]
        around = module.tree.parents[parent]
        if isinstance(parent, ast.Attribute):
            if not isinstance(around, ast.Call):
                return []
            found += around.args
        elif isinstance(parent, ast.Subscript) and isinstance(parent.ctx, ast.Store):
            if not isinstance(around, ast.Assign):
                return []
            found.append(around.value)
    return found


def _uses(module: SourceModule, cls: ast.ClassDef, name: str) -> Iterator[ast.Attribute]:
    """Where the attribute of that name is used, but for other classes' own attributes."""
    for use in module.tree.attributes[name]:
        found = module.tree.method_of(use)
        if found is None or found[0] is cls or own_attribute(use, found[1]) != name:
            yield use


def _only_called(module: SourceModule, cls: ast.ClassDef, name: str) -> bool:
    """Whether the class walks and calls what the container holds, and nothing in the file does more with it."""
    if any(isinstance(n, ast.Attribute) and n.attr in _REGISTER for n in ast.walk(cls)):
        return False
    if any(isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id in ("setattr", "vars")
           for n in ast.walk(cls)):  # fmt: skip
        return False
    called = False
    for use in _uses(module, cls, name):
        if not isinstance(use.ctx, ast.Load):
            continue
        use_called, harmless = _use(module, use)
        if not harmless or in_grad_off(module, use):
            return False
        called = called or use_called
    return called


def _use(module: SourceModule, use: ast.expr) -> tuple[bool, bool]:
    """(whether what is held is called there, whether the use does nothing else with it)."""
    parent = module.tree.parents[use]
    if isinstance(parent, ast.Attribute):
        if parent.attr in ("values", "items"):
            return _walked(module, module.tree.parents[parent], keyed=parent.attr == "items")
        return False, parent.attr in ("append", "keys")
    if isinstance(parent, ast.Subscript):
        if not isinstance(parent.ctx, ast.Load):
            return False, True
        outer = module.tree.parents[parent]
        called = isinstance(outer, ast.Call) and outer.func is parent
        return called, called
    return _walked(module, use)


def _walked(module: SourceModule, over: ast.AST, keyed: bool = False) -> tuple[bool, bool]:
    """As `_use`, for what may stand behind the ``in`` of a loop, which may give a key or a number with each layer."""
    parent = module.tree.parents[over]
    while isinstance(parent, ast.Call) and isinstance(parent.func, ast.Name) and parent.func.id in _WALKERS:
        if parent.func.id in ("len", "range"):
            return False, True
        keyed = parent.func.id == "enumerate"
        over, parent = parent, module.tree.parents[parent]
    if isinstance(parent, ast.Compare):
        return False, True
    if not isinstance(parent, ast.For | ast.comprehension) or parent.iter is not over:
        return False, False
    layers = parent.target.elts[-1] if keyed and isinstance(parent.target, ast.Tuple) else parent.target
    names = {n.id for n in ast.walk(layers) if isinstance(n, ast.Name)}
    around = parent if isinstance(parent, ast.For) else module.tree.parents[parent]
    called = False
    for node in ast.walk(around):
        if isinstance(node, ast.Name) and node.id in names:
            outer = module.tree.parents[node]
            if isinstance(outer, ast.Call) and outer.func is node:
                called = True
            elif isinstance(outer, ast.Attribute | ast.Call | ast.Starred | ast.keyword | ast.Assign):
                return False, False
    return called, True


def _fix(module: SourceModule, value: ast.expr, container: str) -> Fix:
    holder = "ModuleDict" if container == "dict" else "ModuleList"
    edits: tuple[Edit, ...] = ()
    if module.qualified(ast.copy_location(ast.Name("nn", ast.Load()), value)) == "torch.nn":
        text = module.text(value)
        if isinstance(value, ast.Tuple) and not text.startswith("("):
            text = f"({text})"
        edits = (module.replace(value, f"nn.{holder}({text})"),)
    return Fix(f"Hold them in an nn.{holder}.", edits=edits)
