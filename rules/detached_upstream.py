"""GL401 detached-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import DETACH, Context, Finding, Fix, Rule, Severity, cut_findings


class DetachedUpstream(Rule):
    """A detach starves the parameters before it.

    ## What it does
    Finds `.detach()` and `.detach_()` (in the forward, a hook, a helper, the loss) on the only ways from a trainable
    parameter to the loss.

    ## Why it is bad
    The values go on and the gradient stops: the parameters upstream are used in every forward and never trained.

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
    Silent where the parameters get gradient another way (straight-through estimators, BYOL, iterative refinement), are
    frozen, or belong to no optimizer while optimizers are known (target networks).

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html
    """

    code = "GL401"
    name = "detached-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    def check(self, context: Context) -> Iterator[Finding]:
        yield from cut_findings(
            self,
            context,
            lambda cut: cut.kind == DETACH,
            lambda cut: f"{cut.name}() stops the gradient on its only way back to",
            Fix("Remove the detach; if what is before it is meant to stay, freeze it with requires_grad_(False)."),
        )
