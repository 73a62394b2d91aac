"""GL703 contract-matches-nothing."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.rulekit import DeclarationKind, no_match


class ContractMatchesNothing(Rule):
    """A declared pattern that matches no parameter.

    ## What it does
    Finds patterns under `trains` and `frozen` that match no parameter of the model under any of its names.

    ## Why it is bad
    The pattern has no effect: a layer was renamed or the pattern is misspelled, and its parameters are not checked.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.encoder(x))

    def build():
        model = Net()
        model.encoder.requires_grad_(False)
        optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "frozen": ["backbone.*"]}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.encoder(x))

    def build():
        model = Net()
        model.encoder.requires_grad_(False)
        optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "frozen": ["encoder.*"]}
    ```

    ## Known limits
    A pattern that matches other parameters than intended is not found.

    ## References
    README, "Contracts".
    """

    code = "GL703"
    name = "contract-matches-nothing"
    severity = Severity.ERROR
    names_parameters = False
    needs = frozenset({"contract"})

    MESSAGE = "no parameter matches {pattern!r}, declared {state}{origin}: {hint}"
    FIX = "Write the pattern as the parameters are named now; `gradlint why` lists the names."

    def check(self, context: Context) -> Iterator[Finding]:
        for declaration in context.contract.unmatched:
            origin = f" in {declaration.origin}" if declaration.origin and not declaration.location else ""
            yield context.finding(
                self,
                self.MESSAGE.format(
                    pattern=declaration.pattern,
                    state="trainable" if declaration.kind is DeclarationKind.TRAINS else "frozen",
                    origin=origin,
                    hint=no_match(context.trace, declaration.pattern),
                ),
                at=declaration.location,
                fix=Fix(self.FIX),
            )
