"""GL512 update-rounds-away."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint import Context, Finding, Fix, Optimizer, Parameter, Rule, Severity, Step

_STEPS = 3
"""Number of steps that show how large the updates are."""
_MOST = 0.75
"""Part of the updates of an optimizer that makes a finding."""
_MANY = 0.5
"""Part of the updates of a parameter that makes the finding name it."""


class UpdateRoundsAway(Rule):
    """An optimizer whose updates are lost in the rounding of low-precision weights.

    ## What it does
    Finds optimizers of torch that hold weights in bfloat16 or float16, and at whose recorded steps most entries with a
    gradient keep their value: the update is less than half of the distance to the next number.

    ## Why it is bad
    Next to 0.02, numbers in bfloat16 are 0.0001 apart. A smaller update is rounded to nothing, at every step anew: it
    never adds up. Only the weights closest to zero train.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(16, 4).to(torch.bfloat16)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        x, y = torch.randn(8, 16, dtype=torch.bfloat16), torch.randint(4, (8,))

        def step():
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x).float(), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(16, 4)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
        x, y = torch.randn(8, 16), torch.randint(4, (8,))

        def step():
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Optimizers with a step of their own are not judged, as they may round at random or keep what is lost (Kahan
    summation). Neither are recordings of fewer than three steps, nor rates that are still being warmed up.

    ## References
    https://pytorch.org/docs/stable/amp.html
    """

    code = "GL512"
    name = "update-rounds-away"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "step"})

    MESSAGE = (
        "{type} updates weights in {dtypes}, where {percent} % of its updates round to nothing: they are too small to "
        "change {parameters}."
    )
    RELATED = "this step leaves the entries as they are"
    FIX = (
        "Keep the weights in float32 and compute under torch.autocast, or give the optimizer copies in float32; else "
        "raise the learning rate."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for optimizer in context.trace.optimizers:
            steps = context.training.steps_of(optimizer.keys)
            if not optimizer.is_stepped_by_torch or len(steps) < _STEPS or _warms_up(optimizer, steps):
                continue
            held = context.trace.with_keys(optimizer.keys)
            stuck = [p for p in held if _lost_part([p], steps) >= _MANY]
            part = _lost_part(held, steps)
            if part >= _MOST:
                yield context.finding(
                    self,
                    self.MESSAGE.format(
                        type=optimizer.type,
                        dtypes=" and ".join(sorted({p.dtype for p in stuck})),
                        percent=int(100 * part),
                        parameters=context.names(stuck),
                    ),
                    at=optimizer.site if optimizer.site >= 0 else steps[0].site,
                    parameters=stuck,
                    related=[context.related(self.RELATED, steps[0].site)],
                    fix=Fix(self.FIX),
                )


def _warms_up(optimizer: Optimizer, steps: Sequence[Step]) -> bool:
    """Return True if the rate of a group is below the one that it is to have, or grows."""
    for group in optimizer.groups:
        rates = [step.content[key].lr for step in steps for key in group.keys[:1] if key in step.content]
        known = [rate for rate in (*rates, group.peak_lr) if rate is not None]
        if any(known[0] < rate for rate in known):
            return True
    return False


def _lost_part(parameters: Sequence[Parameter], steps: Sequence[Step]) -> float:
    """Return the part of the updates of some parameters that leaves the entries as they are."""
    contents = [(p, c) for step in steps for p in parameters if (c := step.content.get(p.key)) is not None and c.lr]
    due = sum(content.updates or parameter.numel for parameter, content in contents)
    return sum(content.lost_updates for _, content in contents) / due if due else 0.0
