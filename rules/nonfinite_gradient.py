"""GL606 nonfinite-gradient."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.traces import ParameterIndex, Spoiling


class NonfiniteGradient(Rule):
    """A finite loss whose gradient is NaN or infinite.

    ## What it does
    Finds recorded steps that apply a NaN or infinite gradient of a finite loss and thereby make parameters NaN or
    infinite. Without recorded steps, `--numeric` finds such gradients. The finding names the call that receives a
    finite gradient and passes on one that is not.

    ## Why it is bad
    The parameters are lost in this step, and each later loss is NaN. `torch.where` does not help: the branch that it
    does not choose gets a gradient of zero, and zero times an infinite derivative is NaN.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 8)

        def forward(self, x):
            h = self.lin(x)
            return torch.where(h > 0, torch.sqrt(h), h)

    def build():
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(16, 4)

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(4, 8)

        def forward(self, x):
            h = self.lin(x)
            return torch.where(h > 0, torch.sqrt(h.clamp(min=1e-6)), h)

    def build():
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(16, 4)

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Not reported if the loss is not finite itself, or was scaled by a gradient scaler, which skips such steps. Not
    reported if the parameters stay finite: the gradient is repaired, or the step is skipped. `--numeric` reports
    nothing on inputs that gradlint chose itself. Where a value overflows, the call is unknown, and the line is that of
    the backward pass.

    ## References
    https://github.com/pytorch/pytorch/issues/68425 (torch.where and gradients that are NaN)
    """

    code = "GL606"
    name = "nonfinite-gradient"
    severity = Severity.ERROR
    needs = frozenset({"gradient"})

    MESSAGE = "{call} makes the gradient of a finite loss NaN or infinite, and the step applies it to {parameters}."
    MESSAGE_PASS = "the gradient of a finite loss is NaN or infinite, and the step applies it to {parameters}."
    MESSAGE_NUMERIC = "{call} makes the gradient of a finite loss NaN or infinite in {parameters}."
    MESSAGE_NUMERIC_PASS = "the gradient of a finite loss is NaN or infinite in {parameters}."
    FIX = (
        "Keep the argument of {call} where its derivative is finite: clamp it or add an eps inside the call. "
        "torch.where() around the call does not stop the gradient of the branch that it does not choose."
    )
    FIX_PASS = "Find the values that overflow: scale the loss with a GradScaler, or compute this part in float32."

    def check(self, context: Context) -> Iterator[Finding]:
        training, measured = context.trace.training, context.flow.evidence.gradients
        if training is not None and training.steps:
            yield from self._findings(context, _applied(context), self.MESSAGE, self.MESSAGE_PASS)
        elif measured is not None and context.trace.setup.has_inputs:
            yield from self._findings(context, measured.spoilt, self.MESSAGE_NUMERIC, self.MESSAGE_NUMERIC_PASS)

    def _findings(
        self, context: Context, spoilt: Mapping[ParameterIndex, Spoiling], known: str, unknown: str
    ) -> Iterator[Finding]:
        for call, indices in context.by_place(spoilt, spoilt.__getitem__):
            parameters = context.flow.by_index(indices)
            yield context.finding(
                self,
                context.fill(known if call.name else unknown, parameters, call=f"{call.name}()"),
                at=call.site,
                parameters=parameters,
                fix=Fix(self.FIX.format(call=f"{call.name}()") if call.name else self.FIX_PASS),
            )


def _applied(context: Context) -> dict[ParameterIndex, Spoiling]:
    """Return parameter that a step made NaN or infinite → the call behind its gradient."""
    training, trace = context.training, context.trace
    spoilt: dict[ParameterIndex, Spoiling] = {}
    for step in training.steps:
        for key, content in step.content.items():
            parameter = trace.by_key.get(key)
            passes = [training.backwards[number] for number in content.backwards]
            calls = [b.spoilt[key] for b in passes if key in b.spoilt and not b.scaled]
            if content.spoilt and calls and parameter is not None:
                spoilt.setdefault(parameter.index, calls[0])
    return spoilt
