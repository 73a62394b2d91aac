"""GL306 frozen-parameter-still-moves."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Parameter, Rule, Severity, Step
from gradlint.traces import Content, Freeze, SiteId


class FrozenParameterStillMoves(Rule):
    """A frozen parameter that the optimizer still changes.

    ## What it does
    Finds parameters that do not require grad and that a recorded step of their optimizer changes.

    ## Why it is bad
    `requires_grad_(False)` stops new gradients, not the optimizer. If an old gradient is zeroed instead of removed,
    momentum and weight decay still change the parameter.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)
        seen = []

        def step():
            if len(seen) == 1:
                model[0].requires_grad_(False)
            seen.append(1)
            optimizer.zero_grad(set_to_none=False)
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)
        seen = []

        def step():
            if len(seen) == 1:
                model[0].requires_grad_(False)
            seen.append(1)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Only changes that the optimizer makes by a gradient are reported. Values that user code copies into a frozen network
    (target networks, averages) are its own affair, also in the closure of a step. So are the changes of an optimizer
    without gradient, and gradients that user code sets itself (evolution strategies). A parameter that is frozen
    between a backward pass and its step gets that one update.

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "GL306"
    name = "frozen-parameter-still-moves"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE = "the optimizer still changes the frozen {parameters}: by an old gradient, momentum or weight decay."
    RELATED = "changed by this step"
    FIX = "Set p.grad = None after the freeze, or create the optimizer again without these parameters."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        changed: list[tuple[SiteId, Step, Parameter]] = []
        for step in context.training.steps:
            for parameter in trace.parameters:
                content = step.content.get(parameter.key)
                if content is not None and _moves_what_is_frozen(content):
                    freeze = next((e.site for e in reversed(parameter.history) if _freezes(e, step)), step.site)
                    changed.append((freeze, step, parameter))
        for at, members in context.by_place(changed, lambda change: change[0]):
            step, parameters = members[0][1], [parameter for _, _, parameter in members]
            stepped = [o for o in trace.optimizers if o.key in step.optimizers]
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names({p.index: p for p in parameters}.values())),
                at=at,
                parameters=parameters,
                related=[
                    context.related(self.RELATED, step.site),
                    *context.callers(at),
                    *map(context.created, stepped),
                ],
                fix=Fix(self.FIX),
            )


def _moves_what_is_frozen(content: Content) -> bool:
    """Return True if a step changes a frozen parameter by more than its last gradient."""
    by_hand = content.nonzero and not content.backwards
    is_due = set(content.backwards) > set(content.stale)  # frozen between the backward pass and its own step
    return bool(content.moved and content.grad and not content.trainable and not by_hand and not is_due)


def _freezes(event: Event, step: Step) -> bool:
    return isinstance(event, Freeze) and event.number < step.event
