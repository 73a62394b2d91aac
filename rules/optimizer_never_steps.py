"""GL503 optimizer-never-steps."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Backward, Context, Finding, Fix, Optimizer, Related, Rule, Severity, Training, uncalled


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
    warning, or not at all if each backward pass served another optimizer.

    ## References
    https://pytorch.org/docs/stable/optim.html#taking-an-optimization-step
    """

    code = "GL503"
    name = "optimizer-never-steps"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = trace.training
        assert training is not None
        for optimizer in trace.optimizers:
            keys = optimizer.keys
            tried = any(o == optimizer.key for _, o in training.attempts)
            by_hand = any(p.written for k in keys if (p := trace.by_key.get(k)) is not None)
            if training.steps_of(keys) or tried or by_hand:
                continue
            wasted = [b for b in training.backwards if not keys.isdisjoint(b.deposits) and _unserved(training, b)]
            if wasted:
                yield self._finding(context, training, optimizer, keys, wasted)

    def _finding(
        self,
        context: Context,
        training: Training,
        optimizer: Optimizer,
        keys: frozenset[int],
        wasted: list[Backward],
    ) -> Finding:
        numbers = {b.number for b in wasted}
        lost = any(key in keys and numbers.intersection(n) for c in training.clears for key, n in c.discarded.items())
        hit = [p for p in context.trace.parameters if p.key in keys and any(p.key in b.deposits for b in wasted)]
        steps = f" in {len(training.steps)} steps of others" if training.steps else ""
        times = f"{len(wasted)} backward passes" if len(wasted) > 1 else "a backward pass"
        fate = "is cleared unused" if lost else "gathers"
        return context.finding(
            self,
            f"this {optimizer.type} is never stepped{steps}: the gradient that {times} gave to {context.names(hit)} "
            f"{fate}.",
            at=wasted[0].site,
            parameters=hit,
            related=[
                *(Related("named here, and not called", at) for at in uncalled(context.trace, "step")),
                context.related(f"{optimizer.type} is made here", optimizer.site),
            ],
            fix=Fix("Call its step() after this backward."),
            severity=Severity.ERROR if lost else Severity.WARNING,
        )


def _unserved(training: Training, backward: Backward) -> bool:
    """Whether no step came of a backward pass: none applied it, and none applied gradient that was set by hand, maybe
    from what it gave, before the next."""
    following = next((b.event for b in training.backwards[backward.number + 1 :]), None)
    between = [s for s in training.steps if backward.event < s.event and (following is None or s.event < following)]
    by_hand = any(c.nonzero and not c.backwards for s in between for c in s.content.values())
    return not backward.applied_by and not by_hand
