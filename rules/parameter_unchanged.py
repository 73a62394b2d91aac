"""GL509 parameter-unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.traces import Content

_PRECISE = frozenset({"float32", "float64", "complex64", "complex128"})
"""Data types for which float32 is no remedy."""


class ParameterUnchanged(Rule):
    """A parameter that no step changes although its gradient is not zero.

    ## What it does
    Finds parameters with a nonzero gradient and a nonzero learning rate at every recorded step, and the same value
    after each step.

    ## Why it is bad
    The update is lost in rounding (low-precision weights and a small rate), or the optimizer does not apply it.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 2)
        nn.init.constant_(model.weight, 1000.0)
        nn.init.constant_(model.bias, 1000.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        x = torch.ones(6, 4)

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 2)
        nn.init.ones_(model.weight)
        nn.init.ones_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        x = torch.ones(6, 4)

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Parameters that change in some steps and not in others are not reported.

    ## References
    https://pytorch.org/docs/stable/notes/numerical_accuracy.html
    """

    code = "GL509"
    name = "parameter-unchanged"
    severity = Severity.INFO
    needs = frozenset({"step"})
    yields_to = frozenset({"GL512", "GL604"})

    MESSAGE = "no recorded step changes {parameters} in {dtypes}, although the gradient is not zero."
    FIX = "Keep the weights, or a copy for the optimizer, in float32; or raise the learning rate."
    FIX_PRECISE = "Raise the learning rate, or scale the loss; check that the optimizer applies the gradient."

    def check(self, context: Context) -> Iterator[Finding]:
        steps = context.training.steps
        unchanged = []
        for parameter in context.unreported(self, context.trace.parameters):
            contents = [s.content[parameter.key] for s in steps if parameter.key in s.content]
            if contents and all(_fails_to_change(c) for c in contents):
                unchanged.append(parameter)
        for is_precise, parameters in context.by_place(unchanged, lambda p: p.dtype in _PRECISE):
            first = next(s for s in steps if any(p.key in s.content for p in parameters))
            dtypes = sorted({p.dtype for p in parameters})
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters), dtypes=" and ".join(dtypes)),
                at=first.site,
                parameters=parameters,
                fix=Fix(self.FIX_PRECISE if is_precise else self.FIX),
            )


def _fails_to_change(content: Content) -> bool:
    return content.nonzero and content.trainable and content.lr != 0 and content.moved is False
