"""GL407 reentrant-checkpoint-upstream."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Rule, Severity
from gradlint.flow import CutKind
from gradlint.rulekit import report_cuts


class ReentrantCheckpointUpstream(Rule):
    """A reentrant checkpoint without an input that requires grad.

    ## What it does
    Finds calls of `torch.utils.checkpoint` with `use_reentrant=True` around trainable layers where no tensor passed in
    requires grad.

    ## Why it is bad
    The output then does not require grad either. The layers in the checkpoint get no gradient, and neither do
    parameters that reach the loss only through it. torch prints a warning that is easily missed.

    ## Example
    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=True))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh())
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(checkpoint(self.body, x, use_reentrant=False))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    If the whole loss lacks a gradient, loss-without-gradient is reported instead. A no_grad region inside a reentrant
    checkpoint is not distinguished from the checkpoint's own.

    ## References
    https://pytorch.org/docs/stable/checkpoint.html (use_reentrant)
    """

    code = "GL407"
    name = "reentrant-checkpoint-upstream"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE = "no input of this reentrant checkpoint requires grad, which cuts the only gradient path to {parameters}."
    FIX = "Pass use_reentrant=False, or let an input require grad (transformers, peft: enable_input_require_grads())."

    def check(self, context: Context) -> Iterator[Finding]:
        return report_cuts(self, context, CutKind.CHECKPOINT, lambda cut: self.MESSAGE, self.FIX)
