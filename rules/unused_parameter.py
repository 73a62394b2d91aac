"""GL405 unused-parameter."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Rule, Severity, made_site, siblings


class UnusedParameter(Rule):
    """A parameter that the loss does not depend on.

    ## What it does
    Finds trainable parameters from which no data flows to the loss in the recorded forward. Their module never ran, or
    its result was dropped. If an optimizer is known, only its parameters are considered.

    ## Why it is bad
    The layer takes no part in training: a call is missing, a result is overwritten, or a loss term is not added. In
    DistributedDataParallel the first backward fails.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.adapter = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.adapter = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.adapter(self.body(x)))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Only one forward is judged. The severity is info if a sibling of the same class ran (routing, layer drop), or if
    random numbers decide which layers run. It is also info if library code registered the parameter.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html (find_unused_parameters)
    """

    code = "GL405"
    name = "unused-parameter"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient"})
    yields_to = frozenset({"GL412"})

    def check(self, context: Context) -> Iterator[Finding]:
        unused = context.unreported(self, context.flow.by_index(context.flow.unused))
        groups: dict[tuple[Location | None, str, Severity], list[Parameter]] = {}
        places: dict[tuple[Location | None, str, Severity], Location | None] = {}
        for parameter in unused:
            dropped = context.flow.dropped_at(parameter)
            site = made_site(context.trace, parameter, context.flow.unused)
            made, mine = context.trace.location(site), context.by_user(site)
            where, why = made, _NEVER
            if dropped is not None:
                where, why, mine = context.trace.location(dropped.site), _DROPPED, mine or parameter.project
            elif context.flow.readers(parameter):
                why, mine = _CANCELS, False
            elif context.flow.by_chance:
                why, mine = _CHANCE, False
            severity = Severity.WARNING if mine and not _alternates(context, parameter) else Severity.INFO
            key = (where, why, severity)
            groups.setdefault(key, []).append(parameter)
            places.setdefault(key, made)
        for key, parameters in groups.items():
            where, why, severity = key
            they = "it" if len(parameters) == 1 else "they"
            message = f"the loss does not depend on {context.names(parameters)}: {why.format(they=they)}."
            yield context.finding(
                self,
                message,
                at=where,
                parameters=parameters,
                related=[context.related("made here", places[key])],
                fix=Fix("Use the result, add the loss term, or remove the layer; if it is meant to rest, freeze it."),
                severity=severity,
            )


_DROPPED = "the result that this line computes from them is dropped"
_CANCELS = "{they} ran, and no value of theirs makes a difference"
_NEVER = "{they} never ran in this forward"
_CHANCE = "{they} never ran in this forward, in which random numbers decide on what runs"


def _alternates(context: Context, parameter: Parameter) -> bool:
    """Whether a sibling of the same class in the same container ran: routing, layer drop, task heads."""
    depends = context.flow.depends
    return any(p.index in depends for twin in siblings(context.trace, parameter) for p in twin)
