"""GL107 layer-created-in-forward."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, inflect


class LayerCreatedInForward(Rule):
    """A layer that every forward makes anew.

    ## What it does
    Finds parameters that the forward creates, that the loss depends on, and that a second forward creates again.

    ## Why it is bad
    Each batch passes through other random weights. No optimizer holds them, and what they learned is thrown away with
    the forward.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(nn.Linear(x.shape[1], 8)(x))

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
            self.proj = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.proj(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent on lazy modules, layers that are made once, frozen constants, and parameters whose value is written from
    others (copies made for an inner loop).

    ## References
    https://pytorch.org/docs/stable/notes/modules.html
    """

    code = "GL107"
    name = "layer-created-in-forward"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[int, list[Parameter]] = {}
        for parameter in context.flow.by_index(trace.recreated):
            if parameter.index in context.flow.reached and not _copied(context, parameter):
                groups.setdefault(parameter.history[0].site, []).append(parameter)
        for site, parameters in groups.items():
            yield context.finding(
                self,
                f"{context.names(parameters)} {inflect(parameters, 'are')} created in every forward: what is "
                "learned is thrown away.",
                at=site,
                parameters=parameters,
                related=context.callers(site, "in the forward called here", 1),
                fix=Fix("Create the layer once, in __init__."),
                severity=None if context.by_user(site) else Severity.INFO,
            )


def _copied(context: Context, parameter: Parameter) -> bool:
    data = context.flow.masks.data
    others = ~(1 << parameter.index)
    sources = [v for e in parameter.history if e.kind == "write" for v in e.data["sources"]]
    return bool(parameter.twin_of) or any(data.get(v, 0) & others for v in sources)
