"""GL304 stale-parameter-in-optimizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Location, Parameter, Rule, Severity


class StaleParameterInOptimizer(Rule):
    """An optimizer that holds layers the model no longer has.

    ## What it does
    Finds tensors in an optimizer that stood in this model when they were given to it and were replaced afterwards: a
    new head, a converted layer, a model built a second time.

    ## Why it is bad
    The optimizer steps tensors that nobody uses; those that took their place are never stepped.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model[2] = nn.Linear(8, 2)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))
        model[2] = nn.Linear(8, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Known limits
    Where the new layer was given to an optimizer too, or nothing trainable took the place of the old one, it weighs
    info. Silent on tensors that were never in this model: losses, temperatures, other models.

    ## References
    https://pytorch.org/docs/stable/optim.html#constructing-it
    """

    code = "GL304"
    name = "stale-parameter-in-optimizer"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[tuple[int, Location | None], list[str]] = {}
        events = {}
        successors: dict[tuple[int, Location | None], list[Parameter]] = defaultdict(list)
        for stale in context.flow.stale:
            key = (stale.optimizer, trace.location(stale.replaced.site))
            groups.setdefault(key, []).append(stale.fqn)
            events[key] = stale.replaced
            successors[key].extend(p for p in stale.now if p not in successors[key])
        for key, names in groups.items():
            optimizer = trace.optimizers[key[0]]
            new = [p for p in successors[key] if p.requires_grad and not p.groups]
            if _in_forward(context, events[key]):
                new = [p for p in new if p.index in context.flow.reached]
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            what = f"; what has taken their place is in no optimizer: {context.names(new)}" if new else ""
            yield context.finding(
                self,
                f"{optimizer.type} holds {', '.join(names[:4])}{more} as they were before they were replaced"
                f" at {context.place(events[key])}{what}.",
                at=optimizer.site,
                parameters=new,
                named=[n for n in names if n not in {p.fqn for p in new}],
                related=[
                    context.related("replaced here, after the optimizer was made", events[key]),
                    *context.callers(events[key].site, "replaced from here", 1),
                ],
                fix=Fix("Make the optimizer last, when the model is complete."),
                severity=None if new else Severity.INFO,
            )


def _in_forward(context: Context, event: Event) -> bool:
    """Whether a forward replaces the parameter: a codebook that follows its members, which no gradient need reach."""
    return any(frame.code.co_name == "forward" for frame in context.trace.sites.chain(event.site))
