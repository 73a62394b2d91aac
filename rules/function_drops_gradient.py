"""GL408 function-drops-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Rule, Severity
from gradlint.flow import Cut, CutKind
from gradlint.rulekit import report_cuts


class FunctionDropsGradient(Rule):
    """A custom autograd.Function that returns no gradient to parameters before it.

    ## What it does
    Finds custom autograd Functions that leave trainable parameters without gradient, in one of three ways. `backward`
    returns None for an input that requires grad. The output is marked non-differentiable. The Function reads a
    parameter that is not passed to `apply()`. A real backward pass decides.

    ## Why it is bad
    None means "no gradient": autograd stops there without a warning, and the parameters before it are never trained.

    ## Example
    ```python
    import torch
    from torch import nn

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x, factor)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            x, factor = ctx.saved_tensors
            return None, (grad * x).sum()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 2)
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return Scale.apply(self.body(x), self.factor)

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, factor):
            ctx.save_for_backward(x, factor)
            return x * factor

        @staticmethod
        def backward(ctx, grad):
            x, factor = ctx.saved_tensors
            return grad * factor, (grad * x).sum()

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 2)
            self.factor = nn.Parameter(torch.ones(()))

        def forward(self, x):
            return Scale.apply(self.body(x), self.factor)

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported where the parameters get gradient another way. A backward that returns zeros is not reported either:
    zero is a gradient.

    ## References
    https://pytorch.org/docs/stable/notes/extending.html (backward: as many gradients as there were inputs)
    """

    code = "GL408"
    name = "function-drops-gradient"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE_NONE = (
        "{call}.backward returns None for an input that requires grad and cuts the only gradient path to {parameters}."
    )
    MESSAGE_NOT_PASSED = (
        "{call} reads tensors that are not passed to apply(), which cuts the only gradient path to {parameters}."
    )
    FIX = "Return a gradient for every tensor input that requires grad, and pass parameters to apply()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        functions = {function for function, _ in trace.dropped}

        def template(cut: Cut) -> str:
            return self.MESSAGE_NONE if trace.ops[cut.op].func in functions else self.MESSAGE_NOT_PASSED

        return report_cuts(self, context, CutKind.FUNCTION, template, self.FIX)
