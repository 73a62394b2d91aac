"""GL507 scheduler-before-optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


class SchedulerBeforeOptimizer(Rule):
    """A scheduler that is stepped before the optimizer.

    ## What it does
    Finds calls of a scheduler's `step()` in user code before any optimizer has stepped.

    ## Why it is bad
    The first value of the schedule is skipped: a warm-up starts one step late. If the rate changes per epoch, the whole
    first epoch runs at the second rate. torch warns about it once, which is easily missed.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            scheduler.step()
            optimizer.zero_grad()
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
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    The step that a scheduler takes in its constructor is not reported, nor one that follows a metric
    (`ReduceLROnPlateau`): it may know the model before training. Schedulers that do not subclass torch's are not
    seen.

    ## References
    https://pytorch.org/docs/stable/optim.html#how-to-adjust-learning-rate
    """

    code = "GL507"
    name = "scheduler-before-optimizer"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    MESSAGE = "the scheduler is stepped before the optimizer, which skips the first value of its schedule."
    FIX = "Call scheduler.step() after optimizer.step()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        first = min([s.event for s in training.steps] + [event for event, _ in training.attempts], default=0)
        early = [s for s in training.schedules if s.event < first and not s.is_by_metric]
        for site, schedules in context.by_place(early, lambda schedule: schedule.site):
            schedule = schedules[0]
            keys = {k for o in trace.optimizers if o.key == schedule.optimizer for k in o.keys}
            yield context.finding(
                self,
                self.MESSAGE,
                at=site,
                parameters=trace.with_keys(keys),
                related=[
                    context.related("the first optimizer.step() is here", next((s.site for s in training.steps), None)),
                    context.related("the scheduler is created here", schedule.made_at),
                ],
                fix=Fix(self.FIX),
            )
