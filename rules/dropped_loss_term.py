"""GL412 dropped-loss-term."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


class DroppedLossTerm(Rule):
    """A term of the loss that is computed and left behind.

    ## What it does
    Finds a scalar with a gradient that reaches neither the loss nor the output, and that is the only use of some
    trainable parameters.

    ## Why it is bad
    The term was meant to train them; the sum that was logged is not the sum that was returned.

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
    A scalar that is only looked at (`.item()`, a detach) counts as a metric, unless it is a sum with a term of the loss
    in it. Parameters that the loss uses elsewhere are not judged: dropping a regulariser is not seen.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.backward.html
    """

    code = "GL412"
    name = "dropped-loss-term"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient"})

    def check(self, context: Context) -> Iterator[Finding]:
        for term in context.flow.dropped_terms:
            names = context.names(term.parameters)
            message = f"a scalar reaches neither the loss nor the output, and alone depends on {names}."
            if term.returned is not None:
                message = f"this leaves behind the sum that alone depends on {names}."
            yield context.finding(
                self,
                message,
                at=term.returned or term.computed,
                parameters=term.parameters,
                related=[context.related("computed here", term.computed), *context.callers(term.computed)],
                fix=Fix("Return or add the term; if it is only to be logged, freeze what nothing else trains."),
            )
