"""GL506 clip-after-step."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Rule, Severity
from gradlint.rulekit import iterator_places


class ClipAfterStep(Rule):
    """Gradient that is clipped too late or too early.

    ## What it does
    Finds calls of `clip_grad_norm_` and `clip_grad_value_` without the intended effect. They run after the step and
    before the next backward, before a gradient scaler's `unscale_`, or on an exhausted iterator.

    ## Why it is bad
    The optimizer applies unclipped gradient. If the gradient is clipped while it is multiplied by a scale of thousands,
    every step shrinks to almost nothing.

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
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)

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
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    An infinite limit only measures the norm and is not reported. Custom clipping functions are not recognized.

    ## References
    https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-clipping
    """

    code = "GL506"
    name = "clip-after-step"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE_LATE = "the gradient is clipped after the step: the optimizer applies it unclipped."
    MESSAGE_SCALED = (
        "the gradient is clipped before unscale_(), while the loss scale multiplies it: the limit is far too small."
    )
    MESSAGE_EXHAUSTED = "the parameter iterator passed here is already exhausted: nothing is clipped."
    RELATED_STEP = "this step applies it"
    RELATED_MADE = "the iterator is created here"
    RELATED_USED = "it is exhausted here"
    FIX_LATE = "Clip between backward() and step()."
    FIX_SCALED = "Call scaler.unscale_(optimizer) before clipping."
    FIX_EXHAUSTED = "Pass model.parameters() again, or a list."

    def check(self, context: Context) -> Iterator[Finding]:
        training = context.training
        for site, clips in context.by_place(training.clips, lambda clip: clip.site):
            step_site = None
            made: Location | None = None
            used: Location | None = None
            if any(c.exhausted for c in clips):
                message, fix = self.MESSAGE_EXHAUSTED, self.FIX_EXHAUSTED
                keys = {k for s in training.steps for k, c in s.content.items() if c.backwards}
                made, used = iterator_places(context.trace, site)
            elif any(c.scaled and not c.measures for c in clips):
                message, fix = self.MESSAGE_SCALED, self.FIX_SCALED
                keys = {k for c in clips for k in c.scaled}
            elif any(c.applied for c in clips) and not any(c.fresh or c.measures for c in clips):
                message, fix = self.MESSAGE_LATE, self.FIX_LATE
                keys = {k for c in clips for k in c.applied}
                step_site = next((s.site for s in reversed(training.steps) if s.event < clips[-1].event), None)
            else:
                continue
            yield context.finding(
                self,
                message,
                at=site,
                parameters=context.trace.with_keys(keys),
                related=[
                    context.related(self.RELATED_STEP, step_site),
                    context.related(self.RELATED_MADE, made),
                    context.related(self.RELATED_USED, used),
                ],
                fix=Fix(fix),
            )
