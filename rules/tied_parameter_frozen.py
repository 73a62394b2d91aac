"""GL205 tied-parameter-frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint import Context, Event, Finding, Fix, Module, Parameter, Rule, Severity, inflect


class TiedParameterFrozen(Rule):
    """Freezing one end of a tied weight freezes the other.

    ## What it does
    Where one tensor has several names, finds freezes through one of them that froze a layer whose other parameters
    train, and thaws through one of them that set training what was frozen through the other.

    ## Why it is bad
    `requires_grad` belongs to the tensor, not to the name: the embedding that was frozen a line before trains again
    once the output layer tied to it is unfrozen.

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
    Silent where both ends are meant, and where the end that was named is not known.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL205"
    name = "tied-parameter-frozen"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for parameter in trace.parameters:
            ends = _ends(context, parameter)
            changes = [e for e in parameter.history if e.kind in ("freeze", "thaw")]
            if len(ends) < 2 or not changes or not context.by_user(changes[-1].site):
                continue
            named = _end_of(context, changes[-1], ends)
            if named is None:
                continue
            if parameter.requires_grad:
                freeze = next((e for e in reversed(changes) if e.kind == "freeze"), None)
                frozen = _end_of(context, freeze, ends) if freeze is not None else None
                if frozen is not None and frozen is not named:
                    yield self._finding(context, parameter, changes[-1], freeze)
                continue
            for end in ends:
                rest = [trace.parameters[i] for i in end.parameters if i != parameter.index]
                if end is not named and rest and all(p.requires_grad for p in rest):
                    yield self._finding(context, parameter, changes[-1], None, rest)
                    break

    def _finding(
        self,
        context: Context,
        parameter: Parameter,
        event: Event,
        freeze: Event | None,
        rest: Sequence[Parameter] = (),
    ) -> Finding:
        names = " and ".join(parameter.aliases)
        tie = next((e for e in reversed(parameter.history) if e.kind == "register"), None)
        if freeze is not None:
            text = f"{names} are one tensor: this sets it training again, though it was frozen under its other name."
        else:
            others = f"{context.names(rest)} {inflect(rest, 'train')}"
            text = f"{names} are one tensor: this freezes it under both names, while {others} on."
        return context.finding(
            self,
            text,
            at=event.site,
            parameters=[parameter],
            aliases=True,
            related=[
                context.related("frozen here", freeze),
                context.related("tied here", tie),
                *context.callers(event.site),
            ],
            fix=Fix("Untie the weights, or freeze (or train) both ends knowingly."),
        )


def _ends(context: Context, parameter: Parameter) -> list[Module]:
    """The different modules that register a parameter."""
    return [m for m in context.trace.modules if parameter.index in m.parameters]


def _end_of(context: Context, event: Event, ends: list[Module]) -> Module | None:
    """The end that a freeze or thaw was meant for: the only one in the modules whose requires_grad_ its line calls."""
    trace = context.trace
    # loops over several modules go by the union of what they touch, line by line
    same = {
        e.data["through"]
        for e in trace.events
        if e.kind == event.kind and trace.location(e.site) == trace.location(event.site)
    }
    touched = [end for end in ends if any(_is_in(context, end, n) for n in same)]
    return touched[0] if len(touched) == 1 else None


def _is_in(context: Context, module: Module, number: int) -> bool:
    while module.number != number and module.parent >= 0:
        module = context.trace.modules[module.parent]
    return module.number == number
