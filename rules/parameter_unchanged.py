"""GL509 parameter-unchanged."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


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
        model = nn.Linear(4, 2).to(torch.bfloat16)
        nn.init.ones_(model.weight)
        nn.init.ones_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
        x = torch.ones(6, 4, dtype=torch.bfloat16)

        def step():
            optimizer.zero_grad()
            model(x).float().mean().backward()
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

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = trace.training
        assert training is not None
        still = []
        for parameter in trace.parameters:
            contents = [s.content[parameter.key] for s in training.steps if parameter.key in s.content]
            if contents and all(c.nonzero and c.lr != 0 and c.trainable and c.moved is False for c in contents):
                still.append(parameter)
        if not still:
            return
        first = next(s for s in training.steps if any(p.key in s.content for p in still))
        kinds = ", ".join(sorted({p.dtype for p in still}))
        yield context.finding(
            self,
            f"{context.names(still)} ({kinds}) have a gradient and keep their values in every recorded step.",
            at=first.site,
            parameters=still,
            fix=Fix("Keep the weights, or a copy for the optimizer, in float32; or raise the learning rate."),
        )
