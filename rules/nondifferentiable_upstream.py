"""GL404 nondifferentiable-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Rule, Severity
from gradlint.flow import Cut, CutKind
from gradlint.rulekit import report_cuts


class NondifferentiableUpstream(Rule):
    """An operation without a gradient cuts the only gradient path to trainable parameters.

    ## What it does
    Finds non-differentiable operations on every path from a trainable parameter to the loss. Examples are argmax,
    comparisons, casts to integers or bools, sort indices, multinomial, one_hot and `sample()`. Operations with zero
    gradient everywhere (round, floor, sign, bernoulli) count as well. Where nothing recorded explains why a parameter
    has no gradient, the call that reads it is reported.

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

    MESSAGE = "{call} has no gradient and cuts the only gradient path to {parameters}."
    MESSAGE_INDICES = "the indices from {call} have no gradient and cut the only gradient path to {parameters}."
    MESSAGE_UNSEEN = "{call} reads {parameters}, the loss moves with the result, and no gradient returns."
    MESSAGE_ZERO = "{call} is on the only gradient path to {parameters}, and its gradient is zero everywhere."
    FIX = (
        "Use a differentiable replacement (softmax, rsample(), gumbel_softmax(hard=True), a straight-through "
        "estimator), or give the parameters a loss of their own."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        yield from report_cuts(self, context, CutKind.NONDIFFERENTIABLE, self._template, self.FIX)
        yield from report_cuts(self, context, CutKind.UNSEEN, lambda cut: self.MESSAGE_UNSEEN, self.FIX)

    def _template(self, cut: Cut) -> str:
        if cut.zero:
            return self.MESSAGE_ZERO
        return self.MESSAGE_INDICES if cut.name in _VALUES_AND_INDICES else self.MESSAGE


_VALUES_AND_INDICES = frozenset("max min sort topk median nanmedian mode kthvalue cummax cummin".split())
"""Operations that return indices beside differentiable values."""
