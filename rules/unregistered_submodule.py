"""GL104 unregistered-submodule."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Held, Parameter, Rule, Severity, agree, assigned_at, variable_assigned_at


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
    model's own methods name; the rest, and what only the loss runs, is GL302's.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.ModuleList.html
    """

    code = "GL104"
    name = "unregistered-submodule"
    severity = Severity.ERROR
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[tuple[int, str, bool], list[Parameter]] = {}
        for parameter in context.flow.by_index(context.flow.unregistered):
            held: Held = trace.held[parameter.module]
            groups.setdefault((held.holder, held.attribute, held.variable), []).append(parameter)
        for (number, attribute, variable), parameters in groups.items():
            holder = trace.modules[number]
            made = next((e for p in parameters for e in p.history if e.kind == "register"), None)
            if variable:
                where = trace.location(made.site) if made is not None else variable_assigned_at(trace, attribute)
                how = f"{holder.type.__name__} takes {attribute} from around its code"
            else:
                where = assigned_at(trace, holder.type.__mro__, attribute)
                how = f"{attribute} is a plain {type(vars(holder.module).get(attribute)).__name__}"
            yield context.finding(
                self,
                f"{context.names(parameters)} {agree(parameters, 'run')} in the forward and "
                f"{agree(parameters, 'are')} no part of the model: {how}, which registers nothing.",
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
