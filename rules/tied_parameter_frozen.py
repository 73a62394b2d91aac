"""GL205 tied-parameter-frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity
from gradlint.traces import Freeze, Unfreeze


class TiedParameterFrozen(Rule):
    """Freezing one end of a tied weight freezes the other.

    ## What it does
    Looks at tensors with several names. Finds a freeze through one name that also freezes a layer with other, trainable
    parameters. Also finds a `requires_grad_(True)` through one name that undoes a freeze through another.

    ## Why it is bad
    `requires_grad` belongs to the tensor, not to the name. An embedding that was frozen one line before trains again
    after the output layer tied to it is unfrozen.

    ## Example
    ```python
    import torch
    from torch import nn

    class LM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.body(self.embed(ids)))

    def build():
        model = LM()
        model.embed.requires_grad_(False)
        model.head.requires_grad_(True)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class LM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 10, bias=False)

        def forward(self, ids):
            return self.head(self.body(self.embed(ids)))

    def build():
        model = LM()
        model.embed.requires_grad_(False)
        model.head.requires_grad_(True)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Known limits
    Not reported if a line changes both layers, or if the layer that it changes is unknown.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL205"
    name = "tied-parameter-frozen"
    severity = Severity.WARNING

    MESSAGE_UNFROZEN = "{names} are one tensor: this line unfreezes it, though it was frozen under its other name."
    MESSAGE_FROZEN = "{names} are one tensor: this line freezes it under both names, while {parameters} {still_train}."
    FIX = "Untie the weights, or freeze (or train) both layers on purpose."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for parameter in trace.parameters:
            ends = _ends(context, parameter)
            changes = parameter.flag_changes
            if len(ends) < 2 or not changes or not context.by_user(changes[-1].site):
                continue
            named = _end_of(context, changes[-1], ends)
            if named is None:
                continue
            if parameter.requires_grad:
                freeze = next((e for e in reversed(changes) if isinstance(e, Freeze)), None)
                frozen = _end_of(context, freeze, ends) if freeze is not None else None
                if frozen is not None and frozen is not named:
                    yield self._finding(context, parameter, changes[-1], freeze)
                continue
            for end in ends:
                rest = [p for p in trace.own(end) if p is not parameter]
                if end is not named and rest and all(p.requires_grad for p in rest):
                    yield self._finding(context, parameter, changes[-1], None, rest)
                    break

    def _finding(
        self,
        context: Context,
        parameter: Parameter,
        event: Freeze | Unfreeze,
        freeze: Freeze | None,
        rest: Sequence[Parameter] = (),
    ) -> Finding:
        names = " and ".join(parameter.aliases)
        tie = parameter.registered_by
        if freeze is not None:
            message = self.MESSAGE_UNFROZEN.format(names=names)
        else:
            message = context.fill(self.MESSAGE_FROZEN, rest, names=names)
        return context.finding(
            self,
            message,
            at=event.site,
            parameters=[parameter],
            aliases=True,
            related=[
                context.related("frozen here", freeze),
                context.related("tied here", tie),
                *context.callers(event.site),
            ],
            fix=Fix(self.FIX),
        )


def _ends(context: Context, parameter: Parameter) -> list[Module]:
    """Return the modules that register a parameter."""
    return [m for m in context.trace.modules if parameter.index in m.parameters]


def _end_of(context: Context, event: Freeze | Unfreeze, ends: list[Module]) -> Module | None:
    """Return the only end below the modules on which a line changes requires_grad."""
    trace = context.trace
    # one line in a loop may change several modules
    line = trace.location(event.site)
    same = {e.through for e in trace.events_of(type(event)) if trace.location(e.site) == line}
    touched = [end for end in ends if any(module.number in same for module in trace.around(end.number))]
    return touched[0] if len(touched) == 1 else None
