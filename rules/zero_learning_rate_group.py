"""GL303 zero-learning-rate-group."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Group, Optimizer, Rule, Severity, group_location, inflect


class ZeroLearningRateGroup(Rule):
    """A parameter group with learning rate 0.

    ## What it does
    Finds groups with `lr` 0 that hold trainable parameters which gradient reaches, where no scheduler is attached; or,
    where steps were recorded, whose rate was 0 at each of them and at two or more.

    ## Why it is bad
    The gradient of the whole group is computed in every step and multiplied by zero. If freezing is meant,
    `requires_grad_(False)` says so and saves the work; weight decay that is not scaled by the learning rate would still
    move the parameters.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD([
            {"params": model[0].parameters(), "lr": 0.0},
            {"params": model[2].parameters()},
        ], lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer}
    ```

    ## Known limits
    A scheduler is recognised by the `initial_lr` that it writes into the group; one that sets rates by other means is
    not.

    ## References
    https://pytorch.org/docs/stable/optim.html#per-parameter-options
    """

    code = "GL303"
    name = "zero-learning-rate-group"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for optimizer in trace.optimizers:
            for group in optimizer.groups:
                parameters = [
                    p
                    for key in group.keys
                    if (p := trace.by_key.get(key)) is not None and p.requires_grad and p.index in context.flow.reached
                ]
                never = _never_moves(context, group)
                if not parameters or (not never and (group.lr != 0 or group.scheduled)):
                    continue
                which = f"group {group.index} of {optimizer.type}" if len(optimizer.groups) > 1 else optimizer.type
                yield context.finding(
                    self,
                    f"{which} has learning rate 0: {context.names(parameters)} {inflect(parameters, 'get')} a gradient "
                    f"in every step and never {inflect(parameters, 'move')}.",
                    at=group_location(trace, optimizer, group),
                    parameters=parameters,
                    related=[
                        context.related("its scheduler is made here", _scheduler(context, optimizer)),
                        context.related(f"{optimizer.type} is made here", optimizer.site),
                    ],
                    fix=Fix("Freeze them with requires_grad_(False) and leave them out, or give the group a rate."),
                )


def _never_moves(context: Context, group: Group) -> bool:
    """Whether the rate was 0 at every recorded step of a group, and at two or more."""
    training = context.trace.training
    if training is None:
        return False
    rates = [c.lr for step in training.steps for key, c in step.content.items() if key in group.keys[:1]]
    return len(rates) > 1 and not any(rates)


def _scheduler(context: Context, optimizer: Optimizer) -> int | None:
    """Where a scheduler of an optimizer was made."""
    training = context.trace.training
    return training.schedulers.get(optimizer.key) if training is not None else None
