"""GL401 detached-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Rule, Severity
from gradlint.flow import CutKind
from gradlint.rulekit import report_cuts


class DetachedUpstream(Rule):
    """A detach() cuts the only gradient path to trainable parameters.

    ## What it does
    Finds calls of `.detach()` and `.detach_()` that lie on every path from a trainable parameter to the loss. They may
    stand in the forward, a hook, a helper function or the loss.

    ## Why it is bad
    Values pass through and gradient does not. The parameters before the detach take part in every forward and are never
    trained.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            features = self.encoder(x).detach()
            return self.head(features)

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.encoder(x))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported where the parameters get gradient another way (straight-through estimators, BYOL, iterative refinement)
    or are frozen. Also not reported if optimizers are known and none contains the parameters (target networks).

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html
    """

    code = "GL401"
    name = "detached-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE = "{call}() cuts the only gradient path to {parameters}."
    FIX = "Remove the detach. To keep the layers before it fixed, freeze them with requires_grad_(False)."

    def check(self, context: Context) -> Iterator[Finding]:
        return report_cuts(self, context, CutKind.DETACH, lambda cut: self.MESSAGE, self.FIX)
