"""GL301 frozen-parameter-in-optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradlint import (
    Context,
    Edit,
    Event,
    Finding,
    Fix,
    Location,
    Optimizer,
    Parameter,
    Related,
    Rule,
    Severity,
    titled,
)


class FrozenParameterInOptimizer(Rule):
    """An optimizer holds parameters that are frozen.

    ## What it does
    Finds parameters with `requires_grad=False` in an optimizer's groups, and says where they were frozen, where they
    were given, and in which order.

    ## Why it is bad
    Nothing moves while `.grad` stays None, but the code says two things at once. If the parameters had gradients
    before they were frozen, momentum and weight decay go on moving them; a checkpoint of the optimizer no longer fits
    once one of the two is corrected. (`state_dict()` of the *model* holds frozen parameters too: it says nothing about
    what trains.)

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)}
    ```

    ## Known limits
    Parameters that rest by design weigh info: made frozen (`nn.Parameter(table, requires_grad=False)`), frozen by a
    library while it built its own module (a detector's backbone, the base model under peft's adapters), or copied from
    a trainable network and moved by hand (momentum encoders). `model.parameters()` is common there, and harmless.

    ## References
    https://pytorch.org/docs/stable/optim.html#per-parameter-options
    """

    code = "GL301"
    name = "frozen-parameter-in-optimizer"
    severity = Severity.WARNING
    needs = frozenset({"optimizer"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if context.flow.loss_lacks_gradient:
            return  # where everything is frozen, GL406 speaks
        training = trace.training
        trained = {k for s in training.steps for k, c in s.content.items() if c.trainable} if training else set()
        for optimizer in trace.optimizers:
            by_place: dict[tuple[int, bool], list[Parameter]] = {}
            for parameter in trace.parameters:
                if not parameter.frozen_throughout:
                    continue
                if parameter.key in trained:
                    continue  # frozen for the turn of another optimizer
                for number, index in parameter.groups:
                    if number == optimizer.number:
                        place = optimizer.groups[index].site, _meant(context, parameter)
                        by_place.setdefault(place, []).append(parameter)
            for (site, born), parameters in by_place.items():
                yield self._finding(context, optimizer, site, born, parameters)

    def _finding(
        self, context: Context, optimizer: Optimizer, site: int, born: bool, parameters: list[Parameter]
    ) -> Finding:
        names = context.names(parameters)
        who = titled(optimizer)
        if born:
            freeze = parameters[0].frozen_by
            return context.finding(
                self,
                f"{who} holds {names}, which rest by design: it never moves them.",
                at=site,
                parameters=parameters,
                related=[
                    context.related("made here", parameters[0].registered_by),
                    context.related("frozen here", freeze),
                ],
                fix=Fix("Give the optimizer only what trains, or make it a buffer."),
                severity=Severity.INFO,
            )
        freezes = {e.number: e for p in parameters if (e := p.frozen_by) is not None}
        last = freezes[max(freezes)]
        after = last.number > optimizer.event
        order = _order(context, optimizer, site, last, after, len(parameters) == 1)
        places: dict[Location | None, Related | None] = {}
        for event in freezes.values():
            text = f"frozen here, after {optimizer.type} was made" if event.number > optimizer.event else "frozen here"
            places.setdefault(context.trace.location(event.site), context.related(text, event))
        edits: tuple[Edit, ...] = ()
        literal = optimizer.arguments.parameters_of
        if literal is not None and not after and len(optimizer.groups) == 1:
            start = replace(literal, end_line=literal.line, end_column=literal.column)
            end = replace(literal, line=literal.end_line, column=literal.end_column)
            edits = (Edit(start, "filter(lambda p: p.requires_grad, "), Edit(end, ")"))
        return context.finding(
            self,
            f"{who} holds frozen parameters: {names}, {order}. Nothing moves while .grad is None.",
            at=site,
            parameters=parameters,
            related=[
                *list(places.values())[:3],
                *context.callers(next(iter(freezes.values())).site, "frozen from here", 1),
            ],
            fix=Fix(
                "Freeze first, then give the optimizer only what trains: filter(lambda p: p.requires_grad, ...).",
                safe=bool(edits),
                edits=edits,
            ),
        )


def _order(context: Context, optimizer: Optimizer, site: int, freeze: Event, after: bool, one: bool) -> str:
    """When a parameter was frozen: ``frozen at train.py:31, after SGD was given it at train.py:28``."""
    when = f"{'after' if after else 'before'} {optimizer.type} was given {'it' if one else 'them'}"
    return f"frozen at {context.place(freeze)}, {when} at {context.place(site)}"


def _meant(context: Context, parameter: Parameter) -> bool:
    """Whether resting is part of the design: made frozen, frozen by a library while that built its own module, or the
    copy of a trainable network that is moved by hand (a momentum encoder)."""
    freeze = parameter.frozen_by
    trace = context.trace
    if freeze is None or parameter.written or any(trace.parameters[i].requires_grad for i in parameter.twin_of):
        return True
    for frame in trace.sites.chain(freeze.site):
        if frame.project:
            return False
        if frame.code.co_name == "__init__":
            return True
    return False
