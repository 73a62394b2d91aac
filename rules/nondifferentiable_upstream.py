"""GL404 nondifferentiable-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import NONDIFFERENTIABLE, Context, Cut, Finding, Fix, Rule, Severity, cut_findings


class NondifferentiableUpstream(Rule):
    """An operation without a gradient cuts the only gradient path to trainable parameters.

    ## What it does
    Finds non-differentiable operations on every path from a trainable parameter to the loss. Examples are argmax,
    comparisons, casts to integers or bools, sort indices, multinomial, one_hot and `sample()`. Operations with zero
    gradient everywhere (round, floor, sign, bernoulli) count as well.

    ## Why it is bad
    The parameters before the operation decide its result and never learn from it.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Linear(4, 8)
            self.embed = nn.Embedding(8, 2)

        def forward(self, x):
            return self.embed(self.tokens(x).argmax(-1))

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
            self.tokens = nn.Linear(4, 8)
            self.embed = nn.Embedding(8, 2)

        def forward(self, x):
            return nn.functional.gumbel_softmax(self.tokens(x), hard=True) @ self.embed.weight

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    The limits of GL401 apply. A gradient that is zero only for the current values (a dead ReLU, a saturated clamp) is
    not reported here.

    ## References
    https://pytorch.org/docs/stable/distributions.html#pathwise-derivative
    """

    code = "GL404"
    name = "nondifferentiable-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    def check(self, context: Context) -> Iterator[Finding]:
        yield from cut_findings(
            self,
            context,
            lambda cut: cut.kind == NONDIFFERENTIABLE,
            _message,
            Fix(
                "Use a differentiable stand-in (softmax, rsample(), gumbel_softmax(hard=True), a straight-through "
                "estimator), or give the parameters a loss of their own."
            ),
        )


def _message(cut: Cut) -> str:
    if cut.zero:
        return f"the gradient of {cut.name} is zero everywhere, and this is the only way back to"
    return f"{cut.name} has no gradient, and this is the only way back to"
