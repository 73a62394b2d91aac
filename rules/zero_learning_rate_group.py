"""GL303 zero-learning-rate-group."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Group, Optimizer, Parameter, Rule, Severity
from gradlint.flow import group_location
from gradlint.traces import SiteId


class ZeroLearningRateGroup(Rule):
    """A parameter group with learning rate 0.

    ## What it does
    Finds groups with `lr` 0 and no scheduler that contain trainable parameters with a gradient. If steps were recorded,
    the rate was 0 at two or more steps and at all of them, and none changed the parameters. It is an error if no group
    has another rate.

    ## Why it is bad
    Every step computes the gradient of the whole group and multiplies it by zero. To freeze the parameters, use
    `requires_grad_(False)`, which also saves the work. Weight decay that the learning rate does not scale would still
    change them.

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
    A scheduler is recognized by the `initial_lr` that it writes into the group. A scheduler that sets rates by other
    means is not recognized.

    ## References
    https://pytorch.org/docs/stable/optim.html#per-parameter-options
    """

    code = "GL303"
    name = "zero-learning-rate-group"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "loss"})

    MESSAGE = "{group} has learning rate 0: {parameters} {get} a gradient in every step and never {change}."
    FIX = (
        "Freeze them with requires_grad_(False) and leave them out of the optimizer, or give the group a learning rate."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for optimizer in trace.optimizers:
            for group in optimizer.groups:
                contained = trace.with_keys(group.keys)
                reached = (p for p in contained if p.requires_grad and p.index in context.flow.reached)
                parameters = [p for p in reached if not _was_just_unfrozen(context, p) and not _was_moved(context, p)]
                is_zero = group.lr == 0 and not group.scheduled
                if not parameters or not (is_zero or _was_always_zero(context, group)):
                    continue
                name = f"group {group.index} of {optimizer.type}" if len(optimizer.groups) > 1 else optimizer.type
                yield context.finding(
                    self,
                    context.fill(self.MESSAGE, parameters, group=name),
                    at=group_location(trace, optimizer, group),
                    parameters=parameters,
                    related=[
                        context.related("its scheduler is created here", _scheduler(context, optimizer)),
                        context.created(optimizer),
                    ],
                    fix=Fix(self.FIX),
                    severity=Severity.ERROR if _nothing_trains(context, group) else None,
                )


def _nothing_trains(context: Context, group: Group) -> bool:
    """Return True if the steps of an unscheduled group had rate 0, and no group has another."""
    rates = {g.lr for o in context.trace.optimizers for g in o.groups if g.keys}
    return not group.scheduled and rates == {0.0} and _was_always_zero(context, group)


def _was_just_unfrozen(context: Context, parameter: Parameter) -> bool:
    """Return True if a parameter was frozen in recorded steps and trainable in one at most.

    Its learning rate may rise yet.
    """
    training = context.trace.training
    steps = training.steps if training is not None else ()
    trainable = [step.content[parameter.key].trainable for step in steps if parameter.key in step.content]
    return not all(trainable) and sum(trainable) < 2


def _was_moved(context: Context, parameter: Parameter) -> bool:
    """Return True if a recorded step changed a parameter, as another optimizer may."""
    training = context.trace.training
    steps = training.steps if training is not None else ()
    return any(step.content[parameter.key].moved for step in steps if parameter.key in step.content)


def _was_always_zero(context: Context, group: Group) -> bool:
    """Return True if the learning rate was 0 at all recorded steps, two or more."""
    training = context.trace.training
    if training is None:
        return False
    rates = [step.content[key].lr for step in training.steps for key in group.keys[:1] if key in step.content]
    return len(rates) > 1 and all(rate == 0 for rate in rates)


def _scheduler(context: Context, optimizer: Optimizer) -> SiteId | None:
    """Return the site at which a scheduler of an optimizer was created."""
    training = context.trace.training
    return training.schedulers.get(optimizer.key) if training is not None else None
