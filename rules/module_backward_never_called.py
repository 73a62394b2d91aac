"""GL413 module-backward-never-called."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, SourceContext, SourceModule
from gradlint.rulekit import executed_nodes
from gradlint.source import Kind

_GRADIENT = re.compile(r"(?i)^_?(?:\w*_)?grads?(?:_?(?:out|output|outputs|input|inputs))?(?:_\w+)?$|^(?:d_?out|d_?y)$")
_OF_TENSORS = frozenset(("retain_graph", "create_graph", "inputs"))
"""Arguments of a tensor's backward, beside the gradient."""
_DRIVES_AUTOGRAD = frozenset(("backward", "grad", "apply", "save_for_backward"))


class ModuleBackwardNeverCalled(Rule):
    """A `backward` on an nn.Module, which autograd never calls.

    ## What it does
    Finds a method `backward(self, grad_output)` on a plain `nn.Module` that nothing in the file calls. A recording
    names the parameters that train through its forward.

    ## Why it is bad
    Autograd differentiates the operations of `forward` and ignores a `backward` on the module. The surrogate, clipped
    or reversed gradient that the method computes does not exist. The layer trains by the ordinary gradient, or not at
    all if that is zero.

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
    Not reported for classes with bases from other files, whose trainer may call it. Not reported if the argument is not
    named as a gradient, as in the inverse of a flow. Not reported for files that call a `backward` with as many
    arguments on anything but a loss.

    ## References
    https://pytorch.org/docs/stable/notes/extending.html
    """

    code = "GL413"
    name = "module-backward-never-called"
    severity = Severity.WARNING
    names_parameters = False
    source_prefilter = ("def backward",)
    suppressible_on = r"def\s+backward\b"

    MESSAGE = "autograd never calls {cls}.backward: it calls backward on a torch.autograd.Function only."
    MESSAGE_TRAINED = "autograd never calls {cls}.backward: the plain gradient of its forward trains {parameters}."
    FIX = "Write a torch.autograd.Function with static forward and backward, and call its apply in forward."

    def check(self, context: Context) -> Iterator[Finding]:
        modules = dict.fromkeys(function.module for function, _ in executed_nodes(context.trace))
        for module in modules:
            for cls, method in _never_called(module):
                if trained := _trained_before(context, cls.name):
                    yield context.finding(
                        self,
                        context.fill(self.MESSAGE_TRAINED, trained, cls=cls.name),
                        at=module.head(method),
                        parameters=trained,
                        fix=Fix(self.FIX),
                    )

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        for cls, method in _never_called(context.module):
            message = self.MESSAGE.format(cls=cls.name)
            yield context.finding(self, message, context.module.head(method), fix=Fix(self.FIX))


def _never_called(module: SourceModule) -> Iterator[tuple[ast.ClassDef, ast.FunctionDef]]:
    """Yield the classes of a file with a ``backward`` that nothing calls."""
    for method in module.tree.nodes(ast.FunctionDef):
        cls = module.tree.owner(method)
        if method.name != "backward" or cls is None or not module.kinds.is_plain_module(cls):
            continue
        names = [a.arg for a in (*method.args.posonlyargs, *method.args.args)]
        if not _GRADIENT.match("".join(names[1:2])) or method.decorator_list:
            continue
        if not (_is_placeholder(method) or _drives_autograd(method) or _may_be_called(module, cls)):
            yield cls, method


def _trained_before(context: Context, name: str) -> list[Parameter]:
    """Return the parameters outside of a class that train through the forward of its modules."""
    trace = context.trace
    own = {p.index for m in trace.modules if m.type.name == name for p in trace.below(m)}
    inside = {
        number
        for number, call in enumerate(trace.calls)
        if any(m.type.name == name and m.type.project for m in trace.around(call.module))
    }
    read = {value for op in trace.ops[trace.forward_start :] if op.call in inside for value in op.inputs}
    return [p for p in context.flow.trained_by(read) if p.index not in own]


def _is_placeholder(method: ast.FunctionDef) -> bool:
    """Return True if a method only raises, or does nothing."""
    return all(
        isinstance(s, ast.Raise | ast.Pass) or (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))
        for s in method.body
    )


def _drives_autograd(method: ast.FunctionDef) -> bool:
    """Return True if a method runs a backward itself, as a training step does."""
    return any(isinstance(n, ast.Attribute) and n.attr in _DRIVES_AUTOGRAD for n in ast.walk(method))


def _may_be_called(module: SourceModule, cls: ast.ClassDef) -> bool:
    """Return True if the file calls ``.backward(gradient)`` on anything but a loss."""
    for use in module.tree.attributes.get("backward", ()):
        call = module.tree.parents.get(use)
        if not isinstance(call, ast.Call):
            return True
        kinds = _kinds(module, use.value)
        if any(kind is not None and kind.cls is cls for kind in kinds):
            return True
        arguments = [*call.args, *(k for k in call.keywords if k.arg not in _OF_TENSORS)]
        is_loss = isinstance(use.value, ast.Name) and "loss" in use.value.id.lower()
        if None in kinds and arguments and not is_loss:
            return True
    return any(c.value == "backward" for c in module.tree.nodes(ast.Constant))


def _kinds(module: SourceModule, base: ast.expr) -> set[Kind | None]:
    """Return what an expression, or any attribute of its name in the file, may give."""
    if not isinstance(base, ast.Attribute):
        return {module.kind(base)}
    stores = (use for use in module.tree.attributes[base.attr] if isinstance(use.ctx, ast.Store))
    return {module.kind(module.kinds.value_given(use)) for use in stores} or {None}
