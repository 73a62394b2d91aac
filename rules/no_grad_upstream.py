"""GL402 no-grad-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Rule, Severity
from gradlint.flow import Cut, CutKind
from gradlint.rulekit import report_cuts


class NoGradUpstream(Rule):
    """A region with grad mode off cuts the only gradient path to trainable parameters.

    ## What it does
    Finds regions of `no_grad`, `inference_mode` and `set_grad_enabled(False)` that lie on every path from a trainable
    parameter to the loss. Both `with` statements and decorators are found. Finds parameters as well that are frozen for
    just the calls that read them, a warning.

    ## Why it is bad
    Autograd records no operation in the region. The parameters in it get no gradient, and neither do those before it.
    Frozen layers let gradient pass; a region with grad mode off does not.

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
            with torch.no_grad():
                features = self.encoder(x)
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
    The limits of GL401 apply. If code that cannot be seen (C++) switched grad mode off, the first operation of the
    region is reported.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#grad-modes
    """

    code = "GL402"
    name = "no-grad-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE = "{call} cuts the only gradient path to {parameters}."
    MESSAGE_FROZEN = (
        "the layers under {call} are frozen already, and {call} cuts the only gradient path to {parameters}."
    )
    MESSAGE_FROZEN_CALL = (
        "requires_grad is set to False where {call} reads {parameters}, and no gradient returns from that call."
    )
    FIX_FROZEN_CALL = "Unfreeze the parameters before the call, or leave them out of the optimizer."
    FIX = (
        "Take the call out of the block. To keep layers fixed, freeze them with requires_grad_(False), which lets "
        "gradient pass through them."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        yield from report_cuts(self, context, CutKind.NO_GRAD, self._template, self.FIX)
        yield from report_cuts(
            self,
            context,
            CutKind.FROZEN,
            lambda cut: self.MESSAGE_FROZEN_CALL,
            self.FIX_FROZEN_CALL,
            Severity.WARNING,
        )

    def _template(self, cut: Cut) -> str:
        frozen = cut.parameters_inside and not any(p.requires_grad for p in cut.parameters_inside)
        return self.MESSAGE_FROZEN if frozen else self.MESSAGE
