"""GL310 group-after-scheduler."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Group, Optimizer, Rule, Severity, Training
from gradlint.rulekit import plural
from gradlint.traces import NO_SITE, Schedule


class GroupAfterScheduler(Rule):
    """A parameter group that the learning-rate scheduler does not know.

    ## What it does
    Finds groups that `add_param_group` gives to an optimizer after its scheduler was created. The scheduler keeps one
    base rate for each group that was there, so its recorded steps change the rates of those groups alone.

    ## Why it is bad
    The new group keeps the rate that it was added with. It takes part neither in warmup nor in decay. Newer versions
    of torch raise an error where its own schedulers meet such a group; schedulers with a `step` of their own do not.

    ## Example
    ```python
    import torch
    from torch import nn

    class Decay(torch.optim.lr_scheduler.LRScheduler):
        def step(self, epoch=None):
            self.last_epoch += 1
            rates = [rate * 0.9**self.last_epoch for rate in self.base_lrs]
            for group, rate in zip(self.optimizer.param_groups, rates):
                group["lr"] = rate
            self._last_lr = rates

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        scheduler = Decay(optimizer)
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Decay(torch.optim.lr_scheduler.LRScheduler):
        def step(self, epoch=None):
            self.last_epoch += 1
            rates = [rate * 0.9**self.last_epoch for rate in self.base_lrs]
            for group, rate in zip(self.optimizer.param_groups, rates):
                group["lr"] = rate
            self._last_lr = rates

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        optimizer.add_param_group({"params": model[0].parameters(), "lr": 0.01})
        scheduler = Decay(optimizer)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            scheduler.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Only rates that a recorded step of the scheduler changes show which groups it knows.

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.add_param_group.html
    """

    code = "GL310"
    name = "group-after-scheduler"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "step"})

    MESSAGE = (
        "add_param_group() comes after the scheduler, which keeps rates for {count} only: {parameters} {keep} the "
        "rate {rate} while the others follow the schedule."
    )
    RELATED = "the scheduler is created here"
    FIX = "Call add_param_group() before the scheduler is created, or create the scheduler again after it."

    def check(self, context: Context) -> Iterator[Finding]:
        for optimizer in context.trace.optimizers:
            for group in optimizer.groups:
                parameters = context.trace.with_keys(group.keys)
                schedule = _schedule_of_others(context.training, optimizer, group) if parameters else None
                if schedule is not None:
                    yield context.finding(
                        self,
                        context.fill(
                            self.MESSAGE,
                            parameters,
                            count=plural(schedule.known_groups, "group"),
                            rate=group.lr,
                        ),
                        at=group.site if group.site != NO_SITE else schedule.site,
                        parameters=parameters,
                        related=[context.related(self.RELATED, schedule.made_at), context.created(optimizer)],
                        fix=Fix(self.FIX),
                    )


def _schedule_of_others(training: Training, optimizer: Optimizer, group: Group) -> Schedule | None:
    """Return a schedule that changes the rates of other groups only; None without one."""
    later = [s for s in training.schedules if s.optimizer == optimizer.key and s.event > group.event]
    rates = {step.content[group.keys[0]].lr for step in training.steps if group.keys[0] in step.content}
    if rates != {group.lr} or any(group.index < s.known_groups for s in later):
        return None
    return next((s for s in later if s.changed_groups), None)
