"""GL102 requires-grad-on-module."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceContext, SourceModule
from gradlint.rulekit import executed_writes, had_flag_until_later, inflect
from gradlint.source import Write, attribute_writes, best_write, dotted_text, freezes
from gradlint.traces import Freeze, Unfreeze


class RequiresGradOnModule(Rule):
    """`module.requires_grad = False` freezes nothing.

    ## What it does
    Finds modules with a plain attribute `requires_grad` that differs from their parameters.

    ## Why it is bad
    `nn.Module` has no property `requires_grad`. The assignment makes a new Python attribute, and every parameter of the
    module trains on.

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
    Not reported for classes that define the property themselves or use the attribute as an option of their own. Also
    not reported if the parameters agree with the attribute anyway, or did so until a later unfreeze.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL102"
    name = "requires-grad-on-module"
    severity = Severity.ERROR
    fixable = True
    source_prefilter = ("requires_grad",)
    suppressible_on = r"requires_grad"
    recording_overrides_source = True

    MESSAGE = "requires_grad set on an nn.Module changes no parameter: {parameters} {outcome}."
    MESSAGE_SOURCE = "requires_grad set on {module}, an nn.Module, changes no parameter."
    FIX = "Call {call} on the module."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for write in attribute_writes(module, "requires_grad"):
            kind = module.kind(write.base)
            if kind is None or not kind.module or _defines_property(module, kind.cls):
                continue
            is_literal = isinstance(write.value, ast.Constant)
            if _is_option(write) or (not is_literal and dotted_text(write.base) == "self"):
                continue
            freezing = list(_freezes_beside(write))
            if any(dotted_text(base) == dotted_text(write.base) for base in freezing):
                continue
            if freezing or (isinstance(write.value, ast.Constant) and not write.value.value):
                message = self.MESSAGE_SOURCE.format(module=module.text(write.base))
                yield context.finding(self, message, write.node, fix=self._fix(write))

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        flags = [trace.location(e.site) for e in trace.events if isinstance(e, Freeze | Unfreeze)]
        lines = {(flag.path, flag.line) for flag in flags if flag is not None}
        writes = [w for w in executed_writes(trace, "requires_grad") if not _is_option(w)]
        writes = [w for w in writes if (w.location.path, w.location.line) not in lines]
        hits = []
        for module in trace.modules:
            value = module.flags.get("requires_grad")
            write = best_write(writes, module.fqn) if value is not None else None
            if value is not None and write is not None:
                wrong = (p for p in trace.below(module) if value not in (p.requires_grad_before, p.requires_grad_after))
                hits += [(write, value, p) for p in wrong if not had_flag_until_later(trace, p, value, write)]
        for write, members in context.by_place(hits, lambda hit: hit[0]):
            parameters = [parameter for *_, parameter in members]
            value = members[0][1]
            outcome = inflect(parameters, "stay") + " frozen" if value else context.without_freeze(parameters)
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters), outcome=outcome),
                at=write.location,
                parameters=parameters,
                fix=self._fix(write),
                demoted=not (value or any(map(context.flow.meant_to_train, parameters))),
            )

    def _fix(self, write: Write) -> Fix:
        call = f"requires_grad_({write.module.text(write.value)})" if write.value is not None else "requires_grad_()"
        edits = write.rewritten(call)
        return Fix(self.FIX.format(call=call), safe=bool(edits), edits=edits)


def _defines_property(module: SourceModule, cls: str | ast.ClassDef | None) -> bool:
    """Return True if a class, or for an unknown class any of the file, defines the name itself."""
    if isinstance(cls, str) and cls != "torch.nn.Module":
        return False
    classes = module.kinds.lineage(cls) if isinstance(cls, ast.ClassDef) else module.tree.nodes(ast.ClassDef)
    return any("requires_grad" in _members(c) for c in classes)


def _members(cls: ast.ClassDef) -> set[str]:
    """Return the names of a class's methods, and those in the other statements of its body."""
    names: set[str] = set()
    for statement in cls.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(statement.name)
        else:
            names |= {n.id for n in ast.walk(statement) if isinstance(n, ast.Name)}
    return names


def _is_option(write: Write) -> bool:
    """Return True if a class sets it on itself and reads it, as an option of its own."""
    return dotted_text(write.base) == "self" and any(
        isinstance(use.ctx, ast.Load) and dotted_text(use.value) == "self"
        for use in write.module.tree.attributes.get("requires_grad", ())
    )


def _freezes_beside(write: Write) -> Iterator[ast.expr]:
    """Yield what the same function freezes or unfreezes with effect."""
    module = write.module
    function = module.tree.function(write.node)
    for base, place in freezes(module):
        if module.tree.function(place) is function:
            kind = module.kind(place.value) if isinstance(place, ast.Attribute) else None
            if kind is None or not kind.module or getattr(place, "attr", "") != "requires_grad":
                yield base
