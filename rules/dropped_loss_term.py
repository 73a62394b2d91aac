"""GL412 dropped-loss-term."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


class DroppedLossTerm(Rule):
    """A term of the loss that is computed and dropped.

    ## What it does
    Finds scalars with a gradient that reach neither the loss nor the output, and are the only use of some trainable
    parameters. Finds losses too that are never added, where the loss uses the parameters only as constants: targets,
    or factors such as an advantage.

    ## Why it is bad
    The term was meant to train these parameters. The logged sum differs from the returned sum.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.probe = nn.Linear(4, 1)

        def forward(self, x):
            loss = nn.functional.cross_entropy(self.head(x), torch.arange(6) % 3)
            total = loss + 0.1 * self.probe(x).square().mean()
            return loss

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)
            self.probe = nn.Linear(4, 1)

        def forward(self, x):
            loss = nn.functional.cross_entropy(self.head(x), torch.arange(6) % 3)
            total = loss + 0.1 * self.probe(x).square().mean()
            return total

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    A scalar that is only read (`.item()`, a detach) counts as a metric, unless it is a sum that contains a term of the
    loss. An error against a target is a loss, even if it is read, where the loss that trains makes constants of its
    values. Parameters that the loss trains elsewhere are not considered. So a dropped regularizer is found only if it
    is a penalty on a gradient (`create_graph=True`) that nothing reads.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.backward.html
    """

    code = "GL412"
    name = "dropped-loss-term"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE = (
        "no gradient reaches {parameters}: the only scalar computed from {them} reaches neither the loss nor the "
        "output."
    )
    MESSAGE_RETURN = "no gradient reaches {parameters}: this return omits the only sum that depends on {them}."
    MESSAGE_PENALTY = (
        "this scalar is computed from autograd.grad(..., create_graph=True), but reaches neither the loss nor the "
        "output: {parameters} {are} trained without it."
    )
    MESSAGE_LEFT_OUT = (
        "this loss is never added to the one that trains. That one uses {parameters} only as {constants}, without "
        "gradient."
    )
    MESSAGE_LEFT_OUT_RETURN = (
        "this return omits the sum that trains {parameters}. What it returns uses {them} only as {constants}, without "
        "gradient."
    )
    RELATED_CONSTANT = "made constant here"
    FIX_LEFT_OUT = "Add this loss to the one that calls backward()."
    RELATED = "computed here"
    RELATED_PART = "the term is computed here"
    FIX_PENALTY = "Add the term to the loss, or leave out create_graph=True."
    FIX = (
        "Return or add the term: loss = loss + term. If it is only logged, freeze the parameters that "
        "nothing else trains."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for term in context.flow.dropped_penalties:
            yield context.finding(
                self,
                context.fill(self.MESSAGE_PENALTY, term.parameters),
                at=term.computed,
                parameters=term.parameters,
                related=context.callers(term.computed),
                fix=Fix(self.FIX_PENALTY),
            )
        for term in context.flow.left_out:
            yield context.finding(
                self,
                context.fill(
                    self.MESSAGE_LEFT_OUT if term.returned is None else self.MESSAGE_LEFT_OUT_RETURN,
                    term.parameters,
                    constants="a constant" if len(term.parameters) == 1 else "constants",
                ),
                at=term.returned or term.computed,
                parameters=term.parameters,
                related=[
                    context.related(self.RELATED, term.computed if term.returned is not None else None),
                    *(context.related(self.RELATED_CONSTANT, cut.location) for cut in term.cuts[:3]),
                    *context.callers(term.computed),
                ],
                fix=Fix(self.FIX_LEFT_OUT),
                severity=Severity.ERROR,
            )
        for term in context.flow.dropped_terms:
            template = self.MESSAGE if term.returned is None else self.MESSAGE_RETURN
            yield context.finding(
                self,
                context.fill(template, term.parameters),
                at=term.returned or term.computed,
                parameters=term.parameters,
                related=[
                    context.related(self.RELATED, term.computed),
                    *(context.related(self.RELATED_PART, site) for site in term.parts[:3]),
                    *context.callers(term.computed),
                ],
                fix=Fix(self.FIX),
            )
