"""GL503 optimizer-never-steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Set

from gradlint import Context, Finding, Fix, Optimizer, Rule, Severity, Training
from gradlint.flow import optimizer_label
from gradlint.rulekit import plural
from gradlint.traces import Backward, ParameterKey


class OptimizerNeverSteps(Rule):
    """An optimizer that is never stepped although its parameters get gradient.

    ## What it does
    Finds optimizers that are never stepped although their parameters get gradient in the recorded steps. It is an error
    if the gradient of a backward pass for these parameters is cleared unused. It is a warning if gradient only
    accumulates.

    ## Why it is bad
    The network keeps its initial values while every iteration computes the loss and its gradient.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()

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
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    The recording ends after some steps. An optimizer that is stepped every hundredth iteration is reported as a
    warning, or not at all if each backward pass served another optimizer. The severity is info if 500 backward passes
    accumulate gradient and no optimizer is stepped. Parameters that the step writes by hand are left out.

    ## References
    https://pytorch.org/docs/stable/optim.html#taking-an-optimization-step
    """

    code = "GL503"
    name = "optimizer-never-steps"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE = (
        "{optimizer} is never stepped{meanwhile}: the gradient of {parameters} from {passes} is cleared and never "
        "applied."
    )
    MESSAGE_KEPT = "{optimizer} is not stepped in {passes}{meanwhile}: the gradient of {parameters} accumulates."
    FOREIGN = "tensors outside the model"
    MEANWHILE = " while other optimizers take {steps}"
    FIX = "Call step() of this optimizer after this backward()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        for optimizer in trace.optimizers:
            attempted = any(o == optimizer.key for _, o in training.attempts)
            if training.steps_of(optimizer.keys) or attempted:
                continue
            keys = optimizer.keys - {p.key for p in trace.with_keys(optimizer.keys) if p.written}
            wasted = [b for b in training.backwards if not keys.isdisjoint(b.deposits) and not _is_used(training, b)]
            if wasted:
                yield self._finding(context, optimizer, keys, wasted)

    def _finding(
        self, context: Context, optimizer: Optimizer, keys: Set[ParameterKey], wasted: list[Backward]
    ) -> Finding:
        training = context.training
        numbers = {b.number for b in wasted}
        cleared = any(
            key in keys and numbers.intersection(passes)
            for clear in training.clears
            for key, passes in clear.discarded.items()
        )
        hit = [p for p in context.trace.with_keys(keys) if any(p.key in b.deposits for b in wasted)]
        steps = len(training.steps)
        may_accumulate = not steps and len(wasted) >= _ACCUMULATION
        return context.finding(
            self,
            (self.MESSAGE if cleared else self.MESSAGE_KEPT).format(
                optimizer=optimizer_label(optimizer),
                meanwhile=self.MEANWHILE.format(steps=plural(steps, "step")) if steps else "",
                passes=f"{len(wasted)} backward passes" if len(wasted) > 1 else "a backward pass",
                parameters=context.names(hit) if hit else self.FOREIGN,
            ),
            at=wasted[0].site,
            parameters=hit,
            related=[
                *context.uncalled("step"),
                context.created(optimizer),
            ],
            fix=Fix(self.FIX),
            severity=None if cleared else Severity.INFO if may_accumulate else Severity.WARNING,
        )


_ACCUMULATION = 500
"""Number of backward passes that may accumulate gradient for one step of a large batch."""


def _is_used(training: Training, backward: Backward) -> bool:
    """Return True if a step applied the gradient of a backward pass.

    Gradient set by hand and applied before the next pass counts: it may come from this one.
    """
    if backward.applied_by:
        return True
    following_pass = training.backwards[backward.number + 1 : backward.number + 2]
    end = next((b.event for b in following_pass), math.inf)
    following = (s for s in training.steps if backward.event < s.event < end)
    return any(c.nonzero and not c.backwards for s in following for c in s.content.values())
