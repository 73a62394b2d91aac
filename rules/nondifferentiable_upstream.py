"""GL404 nondifferentiable-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import NONDIFFERENTIABLE, Context, Cut, Finding, Fix, Rule, Severity, cut_findings


class NondifferentiableUpstream(Rule):
    """An operation without a gradient starves the parameters before it.

    ## What it does
    Finds operations that have no gradient (argmax, comparisons, casts to integers and bools, sort indices, multinomial,
    one_hot, `sample()`), or whose gradient is zero everywhere (round, floor, sign, bernoulli), on the only ways from a
    trainable parameter to the loss.

    ## Why it is bad
    The parameters upstream decide what comes out and never learn from it.

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
    As for GL401. Gradients that are zero for these values only (a dead ReLU, a saturated clamp) are not judged here.

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
