"""GL514 masked-gradient-still-moves."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Rule, Severity, Step, Trace
from gradlint.rulekit import cleared_gradients
from gradlint.source import definition_location
from gradlint.traces import ParameterKey, SiteId, ValueId, is_project

_STEPS = 2
"""Number of steps with the same mask that show what it is for."""
_VIEWS = frozenset("data detach __getitem__ view select narrow unbind".split())
"""Calls whose result shares memory with their argument."""
_WRITE = 1


class MaskedGradientStillMoves(Rule):
    """Entries whose gradient is set to zero by hand, and which the optimizer still changes.

    ## What it does
    Finds parameters of which user code sets the same part of `.grad` to zero before each recorded step. The step
    changes the entries there all the same, by weight decay or momentum. The mask may be a write to `.grad`, or a hook
    of the parameter.

    ## Why it is bad
    A gradient of zero does not freeze an entry. Weight decay moves every entry that the optimizer holds, and momentum
    goes on with older gradients: rows that were to stay as they are drift away.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        x, y = torch.arange(9).view(3, 3), torch.randn(3, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            model[0].weight.grad[:5] = 0
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
        x, y = torch.arange(9).view(3, 3), torch.randn(3, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            model[0].weight.grad[:5] = 0
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Not reported: masks that change from step to step (gradient dropout), and parameters that code writes to after the
    step. Not reported either: entries that a threshold on the gradient may have chosen. Not seen: masks in backward
    hooks of modules, and masks in hooks where a step applies several backward passes.

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.AdamW.html
    """

    code = "GL514"
    name = "masked-gradient-still-moves"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    MESSAGE = (
        "this sets part of the gradient of {parameters} to zero, yet the step still changes those entries: weight "
        "decay and momentum need no gradient."
    )
    RELATED = "this step changes the entries"
    FIX = (
        "Put the parameter into a group with weight_decay=0, and mask from the first step on. Or write the old values "
        "back after each step."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        found: list[tuple[SiteId | Location, Step, Parameter]] = []
        for parameter in trace.parameters:
            steps = [s for s in context.training.steps if (c := s.content.get(parameter.key)) and c.moves_masked]
            contents = [s.content[parameter.key] for s in context.training.steps if parameter.key in s.content]
            if len(steps) < _STEPS or any(c.lifts_mask for c in contents) or _is_written_after(parameter, steps[0]):
                continue
            found.append((_mask(context, parameter.key, steps[0]), steps[0], parameter))
        for mask, members in context.by_place(found, lambda member: member[0]):
            if not any(s.content[p.key].masked_by_place for _, s, p in members):
                continue  # the largest gradients alone, or those of one sign
            step, parameters = members[0][1], [parameter for _, _, parameter in members]
            stepped = [o for o in trace.optimizers if o.key in step.optimizers]
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=mask,
                parameters=parameters,
                related=[context.related(self.RELATED, step.site), *map(context.created, stepped)],
                fix=Fix(self.FIX),
            )


def _is_written_after(parameter: Parameter, step: Step) -> bool:
    """Return True if user code writes to a parameter after a step, as to restore it."""
    return any(write.number > step.event for write in parameter.writes)


def _mask(context: Context, key: ParameterKey, step: Step) -> SiteId | Location:
    """Return what masks a gradient before a step.

    A hook, the last write to the gradient, or the assignment of one; else the step.
    """
    trace, training = context.trace, context.training
    hooks = training.gradient_hooks.get(key, ()) if step.content[key].masked_by_hook else ()
    if hooks:
        own = [code for code in hooks if is_project(code.co_filename)]
        return definition_location((own or hooks)[-1])
    begin = max((training.backwards[b].op for b in step.content[key].backwards), default=training.start)
    writes = [(op.site, v) for op in trace.ops[begin : step.op] if op.kind == _WRITE for v in op.inputs[:1]]
    sites = (site for site, v in reversed(writes) if training.gradients.get(_base(trace, v)) == key)
    assigned = cleared_gradients(trace)
    return next(sites, assigned[0] if len(assigned) == 1 else step.site)


def _base(trace: Trace, value: ValueId) -> ValueId:
    """Return the value that a view shows, behind views of it."""
    while (made_by := trace.made_by(value)) is not None and made_by.name in _VIEWS:
        value = made_by.inputs[0]
    return value
