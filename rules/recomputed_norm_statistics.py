"""GL213 recomputed-norm-statistics."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Module, ModuleCall, Rule, Severity, Trace
from gradlint.rulekit import list_of, plural
from gradlint.source import call_and_file_at, last_name
from gradlint.traces import ModuleIndex

_DEFAULT_MOMENTUM = 0.1


class RecomputedNormStatistics(Rule):
    """Running statistics that a checkpoint updates twice for each batch.

    ## What it does
    Finds batch norms in a checkpointed part. Each backward pass runs their forward again, which updates the running
    statistics a second time.

    ## Why it is bad
    Two updates with one batch act like a higher momentum: 0.19 in place of 0.1. The statistics follow the last batches
    more closely than those of the same network without checkpoints, and the results in eval mode differ.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    def build():
        body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU())
        model = nn.Sequential(body, nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            out = model[1](checkpoint(body, x, use_reentrant=False))
            nn.functional.mse_loss(out, y).backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    def build():
        body = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8, momentum=1 - 0.9 ** 0.5), nn.ReLU())
        model = nn.Sequential(body, nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            out = model[1](checkpoint(body, x, use_reentrant=False))
            nn.functional.mse_loss(out, y).backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    A momentum other than the default of 0.1 counts as corrected, and is not reported. Other layers with running
    statistics do not count their batches, and are not seen.

    ## References
    https://pytorch.org/docs/stable/checkpoint.html
    """

    code = "GL213"
    name = "recomputed-norm-statistics"
    severity = Severity.INFO
    needs = frozenset({"step"})

    MESSAGE = (
        "the backward pass runs this part again: {count} ({names}) {update} the running statistics twice per batch."
    )
    RELATED = "this backward() runs it again"
    FIX = "Set the momentum of these norms to 1 - sqrt(1 - momentum), or leave them out of the checkpoint."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        recounted: dict[ModuleIndex, int] = {}
        for backward in training.backwards:
            for number in backward.recounted:
                recounted.setdefault(number, backward.number)
        calls = {call.module: call for call in reversed(trace.calls) if call.start >= training.start}
        norms = [
            (_checkpoint(trace, calls[number]), trace.modules[number])
            for number in sorted(recounted)
            if trace.modules[number].momentum == _DEFAULT_MOMENTUM
        ]
        for where, members in context.by_place(norms, lambda norm: norm[0]):
            modules: list[Module] = [module for _, module in members]
            backward = training.backwards[recounted[modules[0].number]]
            yield context.finding(
                self,
                self.MESSAGE.format(
                    count=plural(len(modules), "batch norm"),
                    names=list_of(module.fqn for module in modules),
                    update="updates" if len(modules) == 1 else "update",
                ),
                at=where,
                parameters=[p for module in modules for p in trace.own(module)],
                related=[context.related(self.RELATED, backward.site)],
                fix=Fix(self.FIX),
            )


def _checkpoint(trace: Trace, ran: ModuleCall) -> Location | None:
    """Return the location of the checkpoint around a module call, or of the call without one."""
    for frame in trace.sites.chain(ran.site):
        if frame.project:
            match call_and_file_at(frame.path, frame.location):
                case _, call if "checkpoint" in last_name(call.func).lower():
                    return frame.location
    return trace.location(ran.site)
