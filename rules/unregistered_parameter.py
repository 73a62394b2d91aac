"""GL105 unregistered-parameter."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.rulekit import attribute_location, inflect, variable_location
from gradlint.traces import UnregisteredTensor


class UnregisteredParameter(Rule):
    """A tensor that requires grad and is not registered as a parameter.

    ## What it does
    Finds tensors that require grad, are used in the forward, and are neither registered nor in an optimizer. The model
    holds them as plain attributes or in lists and dicts: a `Parameter` in a list, a leaf created with
    `requires_grad=True`, or an expression, which is not a Parameter (`nn.Parameter(x) * 0.02`).

    ## Why it is bad
    The gradient is computed and never applied. The result of an expression also keeps its autograd graph alive: the
    second backward through it fails.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(4)) * 0.1
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x * self.scale)

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
            self.scale = nn.Parameter(torch.ones(4) * 0.1)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(x * self.scale)

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Inputs are not reported, nor tensors that user code differentiates by with `torch.autograd.grad` (coordinates,
    gradient penalties). Closures and globals are searched only if a method of the model names them.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html
    """

    code = "GL105"
    name = "unregistered-parameter"
    severity = Severity.ERROR
    names_parameters = False
    needs = frozenset({"forward"})

    MESSAGE = "{names} {reason}: the gradient is computed, and no optimizer applies it."
    RELATED = "created here"
    FIX = "Compute the value and move it to its device first, then wrap it in nn.Parameter and register that."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        unregistered = [t for t in trace.unregistered_tensors if t.reached and not t.differentiated]
        for (number, attribute), members in context.by_place(
            unregistered, lambda t: (t.place.holder, t.place.attribute)
        ):
            first = members[0]
            names = [member.place.fqn for member in members]
            if first.place.variable:
                where = trace.location(first.site) or variable_location(trace, attribute)
            else:
                where = attribute_location(
                    trace, trace.modules[number].type.bases, attribute, trace.location(first.site)
                )
            yield context.finding(
                self,
                self.MESSAGE.format(names=", ".join(names), reason=self._reason(first, names)),
                at=where if where is not None else first.site,
                named=names,
                related=[context.related(self.RELATED, first.site)],
                demoted=where is None and not context.by_user(first.site),
                fix=Fix(self.FIX),
            )

    def _reason(self, tensor: UnregisteredTensor, names: list[str]) -> str:
        if not tensor.leaf:
            return f"{inflect(names, 'are')} the result of an operation, not an nn.Parameter"
        if tensor.parameter:
            return f"{inflect(names, 'are')} not registered, though created as nn.Parameter"
        return f"{inflect(names, 'require')} grad, but {inflect(names, 'are')} not an nn.Parameter"
