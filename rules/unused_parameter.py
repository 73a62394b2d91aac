"""GL405 unused-parameter."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Rule, Severity
from gradlint.flow import SiblingsThatRan, made_site, own_passes


class UnusedParameter(Rule):
    """A parameter that the loss does not depend on.

    ## What it does
    Finds trainable parameters from which no data flows to the loss in the recorded forward. Their module never ran, or
    its result was dropped. If an optimizer is known, only its parameters are considered.

    ## Why it is bad
    The layer takes no part in training: a call is missing, a result is overwritten, or a loss term is not added. In
    DistributedDataParallel the first backward fails.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.adapter = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 8)
            self.adapter = nn.Linear(8, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.adapter(self.body(x)))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Only one forward is judged. The severity is info if a sibling of the same class ran (routing, layer drop), or if
    random numbers decide which layers run. It is also info if library code registered the parameter.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html (find_unused_parameters)
    """

    code = "GL405"
    name = "unused-parameter"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient"})
    yields_to = frozenset({"GL412", "GL504"})

    MESSAGE = "{parameters} {get} no gradient: {reason}."
    NEVER_READ = "no operation of the forward reads {them}"
    NOT_READ_BY_CHANCE = "no operation of this forward reads {them}, and random numbers decide which layers run"
    DROPPED = "the forward drops the result that it computes from {them} here"
    STEERS = "the forward uses {them} only to steer control flow"
    NO_EFFECT = "the forward reads {them}, but the loss does not depend on the values"
    OTHER_LOSS = "the loss that the optimizer is stepped for does not depend on {them}, although another loss does"
    FIX = (
        "Use the result, add the loss term, or remove the layer. If it is not meant to train, freeze it: "
        "requires_grad_(False)."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        unused = context.unreported(self, flow.by_index(flow.unused))
        siblings = SiblingsThatRan(flow)
        causes = context.by_place(unused, lambda p: self._cause(context, siblings, p))
        for (where, reason, demoted), parameters in causes:
            yield context.finding(
                self,
                context.fill(self.MESSAGE, parameters, reason=context.fill(reason, parameters)),
                at=where,
                parameters=parameters,
                related=[context.related("registered here", made_site(trace, parameters[0], flow.partly_used))],
                fix=Fix(self.FIX),
                demoted=demoted,
            )

    def _cause(
        self, context: Context, siblings: SiblingsThatRan, parameter: Parameter
    ) -> tuple[Location | None, str, bool]:
        """Return the line to report, the reason, and True if it may be unused on purpose."""
        trace, flow = context.trace, context.flow
        site = made_site(trace, parameter, flow.partly_used)
        where, by_user = trace.location(site), context.by_user(site)
        dropped = flow.dropped_at(parameter)
        if dropped is not None:
            reason = self.STEERS if parameter.index in flow.steering else self.DROPPED
            where, by_user = trace.location(dropped.site), by_user or parameter.project
        elif parameter.index in flow.in_other_losses and (passes := own_passes(trace, parameter)):
            return trace.location(passes[0].site), self.OTHER_LOSS, False
        elif parameter.index in flow.steering:
            reason = self.STEERS
        elif flow.readers(parameter):
            reason, by_user = self.NO_EFFECT, False
        elif flow.uses_random_numbers:
            reason, by_user = self.NOT_READ_BY_CHANCE, False
        else:
            reason = self.NEVER_READ
        return where, reason, not by_user or parameter in siblings
