"""GL408 function-drops-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import FUNCTION, Context, Finding, Fix, Related, Rule, Severity


class FunctionDropsGradient(Rule):
    """A custom autograd.Function that gives no gradient to parameters before it.

    ## What it does
    Finds autograd Functions of the user's whose `backward` returns None for an input that needs grad, whose output is
    marked non-differentiable, or that read a parameter without being given it, where that starves parameters. A real
    backward decides.

    ## Why it is bad
    None means "no gradient": autograd stops there without a word, and what is upstream is never trained.

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
    Silent where the parameters get gradient another way, and on a backward that returns zeros: that is a gradient.

    ## References
    https://pytorch.org/docs/stable/notes/extending.html (backward: as many gradients as there were inputs)
    """

    code = "GL408"
    name = "function-drops-gradient"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if context.flow.loss_lacks_gradient:
            return
        for cut in context.flow.cuts:
            if cut.kind != FUNCTION or not cut.starved or cut.relabelled is not None:
                continue
            if any(function is trace.ops[cut.op].func for function, _ in trace.dropped):
                why = f"{cut.name}.backward returns None for an input that needs grad"
            elif not any(trace.values[o].requires_grad for o in trace.ops[cut.op].outputs):
                why = f"the output of {cut.name} carries no gradient though its input does"
            else:
                why = f"{cut.name} reads parameters that it is not given as inputs"
            foreign = not cut.project and not any(p.project for p in cut.starved)
            yield context.finding(
                self,
                f"{why}: it stops the gradient on its only way back to {context.names(cut.starved)}.",
                at=cut.location or cut.defined,
                parameters=cut.starved,
                related=[
                    Related("its backward is defined here", cut.defined) if cut.defined is not None else None,
                    *(context.related("and would be cut here next", place) for place in cut.later),
                    *context.callers(cut.site),
                ],
                fix=Fix("Return a gradient for every tensor input that needs one, and pass parameters to apply()."),
                severity=Severity.INFO if foreign else None,
            )
