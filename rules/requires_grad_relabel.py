"""GL410 requires-grad-relabel."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import Cut, CutKind


class RequiresGradRelabel(Rule):
    """requires_grad is set on a result that has lost its gradient.

    ## What it does
    Finds `loss.requires_grad = True`, `.requires_grad_()` and `Variable(t, requires_grad=True)` on a tensor that was
    computed from trainable parameters but has no gradient path to them.

    ## Why it is bad
    It silences "element 0 of tensors does not require grad" and repairs nothing. The tensor becomes a new leaf,
    `backward()` succeeds, and no parameter gets a gradient.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        def loss(out):
            wrong = (out.argmax(-1) != 0).float().mean()
            wrong.requires_grad = True
            return wrong
        return {"model": model, "inputs": (torch.randn(6, 4),), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        def loss(out):
            return nn.functional.cross_entropy(out, torch.zeros(6, dtype=torch.long))
        return {"model": model, "inputs": (torch.randn(6, 4),), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported on inputs, on tensors whose own gradient is requested with `autograd.grad`, or if a backward runs
    inside the forward or the loss.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad
    """

    code = "GL410"
    name = "requires-grad-relabel"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    MESSAGE = "{call} makes a computed tensor a new leaf: backward() succeeds, but no gradient reaches {parameters}."
    FIX = (
        "Compute the tensor with differentiable operations that keep its autograd graph (no .detach(), "
        ".item(), torch.tensor()), and use it as it is."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for relabel in context.flow.relabels:
            call = _CALLS.get(relabel.name, f"{relabel.name}(..., requires_grad=True)")
            yield context.finding(
                self,
                self.MESSAGE.format(call=call, parameters=context.names(relabel.parameters)),
                at=relabel.site,
                parameters=relabel.parameters,
                related=[
                    *(context.related(f"{_call(c)} cuts the gradient path here", c.location) for c in relabel.cuts[:3]),
                    *context.callers(relabel.site),
                ],
                fix=Fix(self.FIX),
            )


_CALLS = {
    "requires_grad_": "setting requires_grad",
    "Variable": "Variable(..., requires_grad=True)",
    "Parameter": "nn.Parameter(...)",
}


def _call(cut: Cut) -> str:
    if cut.kind is CutKind.DETACH:
        return f"{cut.name}()"
    return "autograd.grad" if cut.kind is CutKind.GRADIENT else cut.name
