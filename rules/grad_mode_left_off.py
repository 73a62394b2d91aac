"""GL106 grad-mode-left-off."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, Trace
from gradlint.traces import PhaseBegun


class GradModeLeftOff(Rule):
    """Grad mode is still off after build(), the forward or a training step.

    ## What it does
    Finds calls that switch grad mode off and are not undone before build() or the forward ends. Examples are
    `torch.set_grad_enabled(False)` as a statement, and a context entered by hand. In recorded steps, it finds
    such a call if the two steps after it have no gradient, while the step before it had one.

    ## Why it is bad
    Everything that runs later in the process runs without autograd. The next loss has no grad_fn, unless some other
    code switches grad mode on again.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        torch.set_grad_enabled(False)
        model[0].weight.mul_(0.5)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        with torch.no_grad():
            model[0].weight.mul_(0.5)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Only the thread that calls build() is checked.

    ## References
    https://pytorch.org/docs/stable/generated/torch.autograd.grad_mode.set_grad_enabled.html
    """

    code = "GL106"
    name = "grad-mode-left-off"
    severity = Severity.ERROR
    names_parameters = False

    MESSAGE = "this line switches grad mode off, and it is still off after {phase}: no later loss has a gradient."
    FIX = "Switch grad mode off in a with statement only: with torch.no_grad(): ..."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        forward = next((e.number for e in trace.events_of(PhaseBegun)), len(trace.events))
        left_off: dict[int, str] = dict.fromkeys(_left_off_after_steps(trace), "a training step")
        left_off |= {number: "build()" if number < forward else "the forward" for number in trace.grad_off_leaked}
        for number, phase in sorted(left_off.items()):
            event = trace.events[number]
            yield context.finding(
                self,
                self.MESSAGE.format(phase=phase),
                at=event.site,
                related=context.callers(event.site),
                fix=Fix(self.FIX),
            )


def _left_off_after_steps(trace: Trace) -> Iterator[int]:
    """Yield the switches after which two steps in a row have no gradient.

    The step before them had one.
    """
    training = trace.training
    if training is None:
        return
    for optimizer in trace.optimizers:
        steps = [s for s in training.steps if optimizer.key in s.optimizers]
        for trained, first, second in zip(steps, steps[1:], steps[2:], strict=False):
            region = trace.events[first.event].region
            if region < 0 or trace.events[second.event].region != region:
                continue
            between = [b for b in training.backwards if trained.event < b.event < second.event]
            used = any(trained.number in b.applied_by for b in training.backwards)
            if used and not any(b.deposits.keys() & second.content.keys() for b in between):
                yield region
