"""GL206 freeze-undone."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Parameter, Rule, Severity, Trace


class FreezeUndone(Rule):
    """A freeze that a later line takes back whole.

    ## What it does
    Finds parameters that one line froze and that a later line set training again, all of them, with nothing in between
    that used them.

    ## Why it is bad
    The freeze has no effect: a general `requires_grad_(True)` after it, or an order of calls that was turned round.

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
    Silent where only a part is set training again (freeze all, then thaw the head), where an optimizer was made, a step
    taken or the parameters used in between, and on tied weights, of which GL205 speaks.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL206"
    name = "freeze-undone"
    severity = Severity.WARNING

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = _training(trace)
        frozen: dict[int, list[tuple[Parameter, Event]]] = {}
        for parameter in trace.parameters:
            for event in parameter.history:
                if event.kind == "freeze":
                    frozen.setdefault(event.site, []).append((parameter, event))
        done: set[tuple[object, int]] = set()
        for site, members in frozen.items():
            if not context.by_user(site) or any(len(p.aliases) > 1 for p, _ in members):
                continue
            if not all(p.requires_grad and e.number < training for p, e in members):
                continue  # still frozen, or toggled in turns
            thaws = _undone_together(members)
            if not thaws:
                continue
            back = thaws[0]
            last = max(e.number for e in thaws)
            if not context.by_user(back.site) or _busy(context, members[0][1], last, [p for p, _ in members]):
                continue
            parameters = [p for p, _ in members]
            key = (trace.location(back.site), parameters[0].index)
            if key in done:
                continue
            done.add(key)
            yield context.finding(
                self,
                f"this sets {context.names(parameters)} training again, all that was frozen at {context.place(site)}: "
                "the freeze has no effect.",
                at=back.site,
                parameters=parameters,
                related=[
                    context.related("frozen here", site),
                    *context.callers(back.site),
                    *context.callers(site, "frozen from here", 1),
                ],
                fix=Fix("Thaw first and freeze last, or drop the freeze."),
            )


def _training(trace: Trace) -> int:
    """The number of the event with which the training begins."""
    begins = (e.number for kind in ("phase", "backward") for e in trace.events_of(kind))
    return next(begins, len(trace.events))


def _undone_together(members: list[tuple[Parameter, Event]]) -> list[Event]:
    """The thaws of one line that set all of what was frozen training again, whichever part was set before; none where
    the parts were thawed one by one."""
    thaws = [_thaws(p, e) for p, e in members]
    sites = [{e.site for e in events} for events in thaws]
    common = set.intersection(*sites)
    first = [events[0] for events in thaws if events and events[0].site in common]
    if not first:
        return []
    site = max(first, key=lambda e: e.number).site
    return [next(e for e in events if e.site == site) for events in thaws]


def _thaws(parameter: Parameter, freeze: Event) -> list[Event]:
    """The thaws that follow a freeze before the parameter is frozen again."""
    found = []
    for event in parameter.history:
        if event.number > freeze.number and event.kind in ("freeze", "thaw"):
            if event.kind == "freeze":
                break
            found.append(event)
    return found


def _busy(context: Context, freeze: Event, last: int, parameters: list[Parameter]) -> bool:
    """Whether something happened between that a passing freeze may have been for."""
    trace = context.trace
    between = trace.events[freeze.number : last]
    if any(e.kind in ("optimizer", "group", "step", "backward", "phase") for e in between):
        return True
    indices = {p.index for p in parameters}
    end = trace.events[last].op
    used = {trace.owners.get(v) for op in trace.ops[freeze.op : end] for v in op.inputs}
    return bool(used & indices) or any(freeze.op <= c.start < end for c in trace.calls)
