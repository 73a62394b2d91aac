"""GL304 stale-parameter-in-optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Rule, Severity
from gradlint.flow import PartedOptimizer, optimizer_label
from gradlint.rulekit import list_of, tensors
from gradlint.traces import NO_SITE


class StaleParameterInOptimizer(Rule):
    """An optimizer that contains parameters of replaced layers, or of a copy of the model.

    ## What it does
    Finds parameters in an optimizer that the model contained when the optimizer was created, and that were replaced
    later: a new head, a converted layer, a model built a second time. Finds optimizers too that contain none of the
    model's parameters while these get gradient: model and optimizer were copied apart, unpickled apart, or the
    model's tensors were exchanged unseen (sharding).

    ## Why it is bad
    The optimizer steps parameters that the model no longer uses, and never steps the new ones.

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
    The severity is info if the new layer was added to an optimizer too, or if it is not trainable. Parameters that were
    never in this model are not reported: losses, temperatures, other models. Copies that are given gradient by hand
    (master weights) or that any operation reads are not reported.

    ## References
    https://pytorch.org/docs/stable/optim.html#constructing-it
    """

    code = "GL304"
    name = "stale-parameter-in-optimizer"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})

    MESSAGE = "{optimizer} still contains the old {names}, which {place} replaced{successors}."
    SUCCESSORS = ". The new {parameters} {are} in no optimizer"
    RELATED = "replaced here, after the optimizer was created"
    FIX = "Create the optimizer last, with the model.parameters() of the complete model."
    MESSAGE_COPIES = (
        "{optimizer} contains copies of {parameters} and none of the model's own tensors: it changes nothing that the "
        "model uses."
    )
    MESSAGE_FOREIGN = (
        "{optimizer} contains {tensors} that the model does not use, and none of its parameters: no optimizer holds "
        "{parameters}."
    )
    RELATED_OPTIMIZER_COPIED = "the optimizer is copied here, with parameters of its own"
    RELATED_MODEL_COPIED = "the model is copied here"
    FIX_COPIES = (
        "Copy the model first, create an optimizer from the parameters of the copy, and load the state_dict() of the "
        "old one."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        places = context.by_place(context.flow.replaced, lambda s: (s.optimizer, trace.location(s.registration.site)))
        for (number, _), members in places:
            optimizer, replaced = trace.optimizers[number], members[-1].registration
            names = [old.fqn for old in members]
            successors = {p.index: p for old in members for p in old.now}.values()
            new = [p for p in successors if p.requires_grad and not p.groups]
            if _in_forward(context, replaced):
                new = [p for p in new if p.index in context.flow.reached]
            more = context.fill(self.SUCCESSORS, new)
            yield context.finding(
                self,
                self.MESSAGE.format(
                    optimizer=optimizer.type,
                    names=list_of(names),
                    place=context.place(replaced),
                    successors=more if new else "",
                ),
                at=optimizer.site,
                parameters=new,
                named=[n for n in names if n not in {p.fqn for p in new}],
                related=[
                    context.related(self.RELATED, replaced),
                    *context.callers(replaced.site, "replaced from here", 1),
                ],
                fix=Fix(self.FIX),
                demoted=not new,
            )
        for parted in context.flow.parted:
            yield self._parted(context, parted)

    def _parted(self, context: Context, parted: PartedOptimizer) -> Finding:
        optimizer, parameters = parted.optimizer, parted.parameters
        is_copy = parted.optimizer_copied != NO_SITE or parted.model_copied != NO_SITE
        elements = sum(t.numel for t in optimizer.foreign)
        return context.finding(
            self,
            (self.MESSAGE_COPIES if is_copy else self.MESSAGE_FOREIGN).format(
                optimizer=optimizer_label(optimizer),
                parameters=context.names(parameters),
                tensors=tensors(len(optimizer.foreign), elements),
            ),
            at=optimizer.site if parted.optimizer_copied == NO_SITE else parted.optimizer_copied,
            parameters=parameters,
            related=[
                context.created(optimizer),
                context.related(self.RELATED_OPTIMIZER_COPIED, parted.optimizer_copied),
                context.related(self.RELATED_MODEL_COPIED, parted.model_copied),
                *context.callers(optimizer.site, "called here", 1),
            ],
            fix=Fix(self.FIX_COPIES if is_copy else self.FIX),
        )


def _in_forward(context: Context, event: Event) -> bool:
    """Return True if a forward replaces the parameter, such as a codebook of averages."""
    return any(frame.code.co_name == "forward" for frame in context.trace.sites.chain(event.site))
