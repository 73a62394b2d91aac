"""GL412 dropped-loss-term."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


class DroppedLossTerm(Rule):
    """A term of the loss that is computed and dropped.

    ## What it does
    Finds scalars with a gradient that reach neither the loss nor the output, and are the only use of some trainable
    parameters.

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
    loss. Parameters that the loss uses elsewhere are not considered. So a dropped regularizer is found only if it is a
    penalty on a gradient (`create_graph=True`) that nothing reads.

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
    RELATED = "computed here"
    RELATED_PART = "the term is computed here"
    FIX_PENALTY = "Add the term to the loss, or leave out create_graph=True."
    FIX = "Return or add the term. If it is only logged, freeze the parameters that nothing else trains."

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
