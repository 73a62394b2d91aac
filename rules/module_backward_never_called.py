"""GL413 module-backward-never-called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint import Finding, Fix, Kind, Rule, Severity, SourceModule

_GRADIENT = re.compile(r"(?i)^_?(?:\w*_)?grads?(?:_?(?:out|output|outputs|input|inputs))?(?:_\w+)?$|^(?:d_?out|d_?y)$")
_OF_TENSORS = frozenset(("retain_graph", "create_graph", "inputs"))
"""Arguments of a tensor's backward, beside the gradient."""
_INVOKES = frozenset(("backward", "grad", "apply", "save_for_backward"))


class ModuleBackwardNeverCalled(Rule):
    """A `backward` on an nn.Module, which autograd never calls.

    ## What it does
    Finds a method `backward(self, grad_output)` on a plain `nn.Module` that nothing in the file calls.

    ## Why it is bad
    Autograd differentiates the operations of `forward`; it does not look for a `backward` on the module. The method
    never runs: a surrogate gradient, a clipped or reversed gradient that it was written for does not exist, and the
    layer trains by the ordinary gradient or, where that is zero, not at all.

    ## Example
    ```python
    import torch
    from torch import nn

    class ReverseGradient(nn.Module):
        def forward(self, x):
            return x.view_as(x)

        def backward(self, grad_output):
            return -grad_output

    def build():
        model = nn.Sequential(nn.Linear(4, 8), ReverseGradient(), nn.Linear(8, 2))
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Reverse(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad_output):
            return -grad_output

    class ReverseGradient(nn.Module):
        def forward(self, x):
            return Reverse.apply(x)

    def build():
        model = nn.Sequential(nn.Linear(4, 8), ReverseGradient(), nn.Linear(8, 2))
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent on classes with bases from other files, whose trainer may call it, on files that call a `backward` with as
    many arguments on anything but a loss, and where the argument is not named as a gradient (the inverse of a flow).

    ## References
    https://pytorch.org/docs/stable/notes/extending.html
    """

    code = "GL413"
    name = "module-backward-never-called"
    severity = Severity.WARNING
    marks = ("def backward",)
    blames = r"def\s+backward\b"

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for method in module.tree.nodes(ast.FunctionDef):
            cls = module.tree.owner(method)
            if method.name != "backward" or cls is None or not module.kinds.is_plain_module(cls):
                continue
            given = [a.arg for a in (*method.args.posonlyargs, *method.args.args)][1:2]
            if not _GRADIENT.match("".join(given)) or method.decorator_list:
                continue
            if _raises_only(method) or _drives_autograd(method) or _called_by_hand(module, cls):
                continue
            yield module.finding(
                self,
                f"autograd never calls {cls.name}.backward: it differentiates what forward does, and looks for a "
                f"backward only on a torch.autograd.Function.",
                module.head(method),
                fix=Fix(
                    "Write a torch.autograd.Function with static forward and backward, and call its apply in forward."
                ),
            )


def _raises_only(method: ast.FunctionDef) -> bool:
    """Whether it says that it must not be called, or does nothing."""
    return all(
        isinstance(s, ast.Raise | ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in method.body
    )


def _drives_autograd(method: ast.FunctionDef) -> bool:
    """Whether it runs a backward itself: then somebody calls it as a step of training."""
    return any(isinstance(n, ast.Attribute) and n.attr in _INVOKES for n in ast.walk(method))


def _called_by_hand(module: SourceModule, cls: ast.ClassDef) -> bool:
    """Whether anything in the file may call it: a ``.backward(gradient)`` on what is no loss, or a name for it."""
    for use in module.tree.attributes.get("backward", ()):
        call = module.tree.parents.get(use)
        if not isinstance(call, ast.Call):
            return True
        kinds = _kinds(module, use.value)
        if any(kind is not None and kind.cls is cls for kind in kinds):
            return True
        given = [*call.args, *(k for k in call.keywords if k.arg not in _OF_TENSORS)]
        if None in kinds and given and not (isinstance(use.value, ast.Name) and "loss" in use.value.id.lower()):
            return True
    return any(c.value == "backward" for c in module.tree.nodes(ast.Constant))


def _kinds(module: SourceModule, base: ast.expr) -> set[Kind | None]:
    """What may be called; of an attribute of something unknown, all that the file ever assigns to one of that name."""
    if not isinstance(base, ast.Attribute):
        return {module.kind(base)}
    values = [
        module.kinds.value_given(use) for use in module.tree.attributes[base.attr] if isinstance(use.ctx, ast.Store)
    ]
    return {module.kind(value) for value in values} or {None}
