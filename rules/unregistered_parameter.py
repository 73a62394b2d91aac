"""GL105 unregistered-parameter."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Loose, Rule, Severity, assigned_at, inflect, variable_assigned_at


class UnregisteredParameter(Rule):
    """A tensor that should train and is no parameter of the model.

    ## What it does
    Finds tensors that need grad, that the model holds as plain attributes (or in lists and dicts) and uses in the
    forward, and that are neither registered nor in an optimizer: a `Parameter` in a list, a leaf made with
    `requires_grad=True`, or an expression that is a Parameter no longer (`nn.Parameter(x) * 0.02`).

    ## Why it is bad
    The gradient is computed and never applied. The result of an expression also keeps the graph of its making: the
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
    Silent on inputs, and on tensors by which the user's code differentiates (`torch.autograd.grad`): coordinates,
    gradient penalties. Of closures and globals, those are looked at that the model's own methods name.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html
    """

    code = "GL105"
    name = "unregistered-parameter"
    severity = Severity.ERROR
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[tuple[int, str], list[Loose]] = {}
        for loose in trace.loose:
            if loose.reached and not loose.differentiated:
                groups.setdefault((loose.held.holder, loose.held.attribute), []).append(loose)
        for (number, attribute), members in groups.items():
            first = members[0]
            names = ", ".join(m.held.fqn for m in members)
            are = inflect(members, "are")
            if not first.leaf:
                what = f"{are} computed from a leaf and so no Parameter"
            elif first.parameter:
                what = f"{are} nn.Parameter in a place that registers nothing"
            else:
                what = f"{inflect(members, 'need')} grad and {are} no Parameter"
            if first.held.variable:
                where = trace.location(first.site) or variable_assigned_at(trace, attribute)
            else:
                where = assigned_at(trace, trace.modules[number].type.bases, attribute)
            yield context.finding(
                self,
                f"{names} {what}: the gradient is computed and no optimizer applies it.",
                at=where if where is not None else first.site,
                named=[m.held.fqn for m in members],
                related=[context.related("made here", first.site)],
                severity=None if where is not None or context.by_user(first.site) else Severity.INFO,
                fix=Fix("Register it: compute the value and move it first, wrap it in nn.Parameter last."),
            )
