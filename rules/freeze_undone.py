"""GL206 freeze-undone."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, Trace
from gradlint.traces import (
    BackwardCalled,
    Freeze,
    GroupAdded,
    OptimizerMade,
    ParameterIndex,
    PhaseBegun,
    StepCalled,
    Unfreeze,
)


class FreezeUndone(Rule):
    """A freeze that a later line undoes.

    ## What it does
    Finds parameters that one line froze and a later line unfroze, all of them. No other line used them in between.

    ## Why it is bad
    The freeze has no effect. Either a general `requires_grad_(True)` follows it, or the calls are in the wrong order.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        model.requires_grad_(True)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model.requires_grad_(True)
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Not reported if only a part is unfrozen (freeze all, then unfreeze the head). Also not reported if an optimizer was
    created, a step ran, or the parameters were used in between. Tied weights are left to tied-parameter-frozen.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL206"
    name = "freeze-undone"
    severity = Severity.WARNING

    MESSAGE = "this line unfreezes everything frozen at {place}, {parameters}: the freeze has no effect."
    FIX = "Call requires_grad_(True) first and requires_grad_(False) last, or drop the freeze."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = _training(trace)
        freezes = [(p, e) for p in trace.parameters for e in p.flag_changes if isinstance(e, Freeze)]
        done: set[tuple[object, ParameterIndex]] = set()
        for site, members in context.by_place(freezes, lambda item: item[1].site):
            if not context.by_user(site) or any(len(p.aliases) > 1 for p, _ in members):
                continue
            if not all(p.requires_grad and e.number < training for p, e in members):
                continue  # still frozen, or frozen and unfrozen in each step
            undone = _undone_together(members)
            if not undone:
                continue
            parameters = [p for p, _ in members]
            last = max(e.number for e in undone)
            if not context.by_user(undone[0].site) or _used_between(context, members[0][1], last, parameters):
                continue
            key = (trace.location(undone[0].site), parameters[0].index)
            if key in done:
                continue
            done.add(key)
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters), place=context.place(site)),
                at=undone[0].site,
                parameters=parameters,
                related=[
                    context.related("frozen here", site),
                    *context.callers(undone[0].site),
                    *context.callers(site, "frozen from here", 1),
                ],
                fix=Fix(self.FIX),
            )


def _training(trace: Trace) -> int:
    """Return the number of the event that begins the training."""
    begins = (e.number for kind in (PhaseBegun, BackwardCalled) for e in trace.events_of(kind))
    return next(begins, len(trace.events))


def _undone_together(members: list[tuple[Parameter, Freeze]]) -> list[Unfreeze]:
    """Return the events by which one line unfroze everything; none if several lines did."""
    unfrozen = [_unfrozen(p, e) for p, e in members]
    sites = [{e.site for e in events} for events in unfrozen]
    common = set.intersection(*sites)
    first = [events[0] for events in unfrozen if events and events[0].site in common]
    if not first:
        return []
    site = max(first, key=lambda e: e.number).site
    return [next(e for e in events if e.site == site) for events in unfrozen]


def _unfrozen(parameter: Parameter, freeze: Freeze) -> list[Unfreeze]:
    """Return the events that unfreeze a parameter after a freeze and before the next one."""
    unfreezes: list[Unfreeze] = []
    for event in parameter.flag_changes:
        if event.number > freeze.number:
            if isinstance(event, Freeze):
                break
            unfreezes.append(event)
    return unfreezes


def _used_between(context: Context, freeze: Freeze, last: int, parameters: list[Parameter]) -> bool:
    """Return True if something happened in between that may need a temporary freeze."""
    trace = context.trace
    between = trace.events[freeze.number : last]
    if any(isinstance(e, OptimizerMade | GroupAdded | StepCalled | BackwardCalled | PhaseBegun) for e in between):
        return True
    indices = {p.index for p in parameters}
    end = trace.events[last].op
    used = {trace.owners.get(v) for op in trace.ops[freeze.op : end] for v in op.inputs}
    return bool(used & indices) or any(freeze.op <= c.start < end for c in trace.calls)
