"""GL301 frozen-parameter-in-optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradlint import Context, Edit, Finding, Fix, Location, Optimizer, Parameter, Related, Rule, Severity, Training
from gradlint.flow import optimizer_label
from gradlint.traces import SiteId


class FrozenParameterInOptimizer(Rule):
    """An optimizer that contains frozen parameters.

    ## What it does
    Finds parameters with `requires_grad=False` in an optimizer's groups. The finding names the line that froze them and
    the line that added them to the optimizer, in their order.

    ## Why it is bad
    Frozen parameters do not change while `.grad` is None, but the code contradicts itself. If they had gradients before
    the freeze, momentum and weight decay still change them. A checkpoint of the optimizer no longer fits after either
    line is corrected. (`state_dict()` of the *model* contains frozen parameters too.)

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=0.1)}
    ```

    ## Known limits
    The severity is info for parameters that are frozen by design, where `model.parameters()` is common and harmless.
    They were created frozen (`nn.Parameter(table, requires_grad=False)`), or a library froze them while it built its
    own module (the base model under peft's adapters). Copies of a trainable network that user code updates (momentum
    encoders) count too. In recorded steps, a parameter is frozen if it required grad at no backward pass, and is
    reported if its optimizer stepped.

    ## References
    https://pytorch.org/docs/stable/optim.html#per-parameter-options
    """

    code = "GL301"
    name = "frozen-parameter-in-optimizer"
    severity = Severity.WARNING
    fixable = True
    needs = frozenset({"optimizer"})
    yields_to = frozenset({"GL115", "GL308"})

    MESSAGE = "{optimizer} contains frozen parameters: {parameters}, frozen at {freeze}, {order} {site}."
    MESSAGE_BY_DESIGN = "{optimizer} contains {parameters}, frozen by design: the optimizer never updates {them}."
    FIX = "Freeze first, then give the optimizer only trainable parameters: filter(lambda p: p.requires_grad, ...)."
    FIX_LATE = (
        "If they should train, drop this freeze. Otherwise move it before the optimizer is created, and give the "
        "optimizer only trainable parameters: filter(lambda p: p.requires_grad, ...)."
    )
    FIX_BY_DESIGN = "Give the optimizer only trainable parameters, or register the tensor as a buffer."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if context.flow.loss_lacks_gradient:
            return  # that is the mistake to mend first
        training = trace.training
        for optimizer in trace.optimizers:
            frozen: list[tuple[SiteId, Parameter]] = []
            for parameter in trace.parameters:
                if not parameter.frozen_throughout:
                    continue
                if training is not None and not _stays_frozen(training, parameter):
                    continue
                for number, index in parameter.groups:
                    if number == optimizer.number:
                        frozen.append((optimizer.groups[index].site, parameter))
            places = context.by_place(frozen, lambda item: (item[0], _is_by_design(context, item[1])))
            for (site, by_design), members in places:
                parameters = [parameter for _, parameter in members]
                report = self._by_design if by_design else self._contradiction
                yield report(context, optimizer, site, parameters)

    def _by_design(self, context: Context, optimizer: Optimizer, site: SiteId, parameters: list[Parameter]) -> Finding:
        return context.finding(
            self,
            context.fill(self.MESSAGE_BY_DESIGN, parameters, optimizer=optimizer_label(optimizer)),
            at=site,
            parameters=parameters,
            related=[
                context.related("created here", parameters[0].registered_by),
                context.related("frozen here", parameters[0].frozen_by),
            ],
            fix=Fix(self.FIX_BY_DESIGN),
            demoted=True,
        )

    def _contradiction(
        self, context: Context, optimizer: Optimizer, site: SiteId, parameters: list[Parameter]
    ) -> Finding:
        freezes = {e.number: e for p in parameters if (e := p.frozen_by) is not None}
        last = freezes[max(freezes)]
        after = last.number > optimizer.event
        places: dict[Location | None, Related | None] = {}
        for event in freezes.values():
            late = f", after {optimizer.type} was created" if event.number > optimizer.event else ""
            places.setdefault(context.trace.location(event.site), context.related(f"frozen here{late}", event))
        edits: tuple[Edit, ...] = ()
        literal = optimizer.arguments.parameters_of
        keeps = any(p.requires_grad for p in context.trace.with_keys(optimizer.keys))
        if literal is not None and not after and keeps and len(optimizer.groups) == 1:
            start = replace(literal, end_line=literal.line, end_column=literal.column)
            end = replace(literal, line=literal.end_line, column=literal.end_column)
            edits = (Edit(start, "filter(lambda p: p.requires_grad, "), Edit(end, ")"))
        return context.finding(
            self,
            self.MESSAGE.format(
                optimizer=optimizer_label(optimizer),
                parameters=context.names(parameters),
                freeze=context.place(last),
                order="after they were added at" if after else "before they were added at",
                site=context.place(site),
            ),
            at=site,
            parameters=parameters,
            related=[
                *list(places.values())[:3],
                *context.callers(next(iter(freezes.values())).site, "frozen from here", 1),
            ],
            fix=Fix(self.FIX_LATE if after else self.FIX, safe=bool(edits), edits=edits),
        )


def _stays_frozen(training: Training, parameter: Parameter) -> bool:
    """Return True if a parameter was frozen before the recorded steps and at each of them.

    If no optimizer that contains it steps, its turn may come later.
    """
    contents = [step.content[parameter.key] for step in training.steps if parameter.key in step.content]
    freeze = parameter.frozen_by
    if any(c.trainable for c in contents) or (freeze is not None and freeze.number >= training.first_event):
        return False
    return bool(contents) or not training.backwards


def _is_by_design(context: Context, parameter: Parameter) -> bool:
    """Return True if a parameter is frozen by design.

    It was created frozen, a library froze it while it built its own module, or it is a copy of a trainable network that
    user code updates (a momentum encoder).
    """
    freeze = parameter.frozen_by
    trace = context.trace
    if freeze is None or parameter.written or trace.has_trainable_twin(parameter):
        return True
    if parameter.created_by is not None and parameter.created_by.site == freeze.site:  # nn.EmbeddingBag.from_pretrained
        return True
    for frame in trace.sites.chain(freeze.site):
        if frame.project:
            return False
        if frame.code.co_name == "__init__":
            return True
    return False
