"""GL204 eval-undone-by-train."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Location, Module, Rule, Severity


class EvalUndoneByTrain(Rule):
    """An `eval()` that lasts until the next `train()`.

    ## What it does
    Finds parts of the model that user code put in eval mode and that ran in train mode after a later `train()` of the
    model, in the build or in a step.

    ## Why it is bad
    `train()` goes down the whole tree. Norm layers that were meant to keep their statistics, and dropout that was meant
    to rest, are active again from the first epoch on.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        model[1].eval()
        model.train()
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        model.train()
        model[1].eval()
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent where the part ran in eval mode in between (an evaluation), where nothing in it depends on the mode, and
    where `train()` was called on the part itself too. Frozen norms whose statistics move are GL201's.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train
    """

    code = "GL204"
    name = "eval-undone-by-train"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        modes = list(trace.events_of("mode"))
        depend = {m.number for m in trace.modules if _sensitive(context, m)}
        active = [
            (c.start, _up(context, trace.modules[c.module])) for c in trace.calls if c.training and c.module in depend
        ]
        groups: dict[Location | None, tuple[Event, Event, list[Module]]] = {}
        for event in modes:
            if event.data["training"] or event.op > trace.forward_start or not context.by_user(event.site):
                continue
            part = trace.modules[event.data["module"]]
            undone = _undone(context, part, [e for e in modes if e.number > event.number], active)
            if undone is None:
                continue
            # where the build leaves a part in eval mode, gradlint's own forward is no evaluation in between
            if not _ran(context, part, event.op, undone.op if part.training else trace.forward_start):
                groups.setdefault(trace.location(event.site), (event, undone, []))[2].append(part)
        for where, (event, undone, parts) in groups.items():
            names = ", ".join(p.fqn for p in parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
            yield context.finding(
                self,
                f"the eval mode of {names} does not last: train() of the whole model undoes it.",
                at=where,
                parameters=[p for part in parts for p in trace.below(part)],
                related=[context.related("train() is called here", undone), *context.callers(event.site)],
                fix=Fix("Override train() so that it puts the part in eval mode again, or call eval() after train()."),
            )


def _up(context: Context, module: Module) -> list[int]:
    """The numbers of a module and of those above it."""
    found = [module.number]
    while module.parent >= 0:
        module = context.trace.modules[module.parent]
        found.append(module.number)
    return found


def _undone(context: Context, part: Module, later: list[Event], active: list[tuple[int, list[int]]]) -> Event | None:
    """The first train() of what is above a part where it is due to that alone that something in the part ran in train
    mode."""
    above = _up(context, part)[1:]
    for start, up in active:
        if part.number in up:
            over = [e for e in later if e.data["module"] in up and e.op <= start]
            last: list[Event] = list(itertools.takewhile(lambda e: e.data["training"], reversed(over)))
            if last and all(e.data["module"] in above for e in last):
                return last[-1]
    return None


def _ran(context: Context, part: Module, start: int, end: int) -> bool:
    calls = [c for c in context.trace.calls if start <= c.start < end]
    return any(part.number in _up(context, context.trace.modules[c.module]) for c in calls)


def _sensitive(context: Context, module: Module) -> bool:
    """Whether a module depends on the mode; not frozen norms, of which GL201 speaks."""
    if "running_mean" in module.running_stats:
        own = [context.trace.parameters[i] for i in module.parameters]
        return not own or any(p.requires_grad for p in own)
    return module.is_active_dropout
