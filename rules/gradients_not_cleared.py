"""GL501 gradients-not-cleared."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, Step, Training
from gradlint.traces import Backward, Content


class GradientsNotCleared(Rule):
    """A step applies gradient that an earlier step already applied.

    ## What it does
    Finds parameters stepped with the sum of new gradient and gradient that an earlier step already applied. Nothing
    cleared it between the steps. Every way of clearing counts: `zero_grad`, `p.grad = None`, zeroing by hand.

    ## Why it is bad
    `backward()` adds to `.grad`. Without clearing, each step applies the sum of all gradients so far. This acts like
    momentum that never decays: training diverges or becomes slow.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Several backward passes before one step (gradient accumulation) are not reported. Gradient that user code replaces
    with another tensor counts as cleared.

    ## References
    https://pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html
    """

    code = "GL501"
    name = "gradients-not-cleared"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE = (
        "backward() adds to gradient that an earlier step already applied: nothing clears the gradient of {parameters} "
        "between the steps."
    )
    FIX = "Call optimizer.zero_grad() before backward(), or after each step."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        groups: dict[int, tuple[Backward, Step, dict[int, Parameter]]] = {}
        for step in training.steps:
            for parameter in trace.parameters:
                content = step.content.get(parameter.key)
                if content is not None and content.stale:
                    backward = _adding_backward(training, parameter.key, content)
                    _, _, members = groups.setdefault(backward.site, (backward, step, {}))
                    members[parameter.index] = parameter
        for backward, step, members in groups.values():
            parameters = list(members.values())
            numbers = {number for p in parameters for number, _ in p.groups}
            holders = [o for o in trace.optimizers if o.number in numbers]
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=backward.site if backward.site >= 0 else step.site,
                parameters=parameters,
                related=[
                    context.related("this step applies the sum", step.site),
                    *context.uncalled("zero_grad"),
                    *map(context.created, holders[:2]),
                ],
                fix=Fix(self.FIX),
            )


def _adding_backward(training: Training, key: int, content: Content) -> Backward:
    """Return the first backward pass, run for a parameter, that added to applied gradient.

    Passes that only lead through the parameter to those of another optimizer come last.
    """
    fresh = [training.backwards[b] for b in content.backwards if b not in content.stale]
    own = (b for b in fresh if all(key in training.steps[s].content for s in b.applied_by))
    return next(own, fresh[-1])
