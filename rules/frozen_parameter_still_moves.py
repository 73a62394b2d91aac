"""GL306 frozen-parameter-still-moves."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Parameter, Rule, Severity, Step


class FrozenParameterStillMoves(Rule):
    """A frozen parameter that the optimizer still moves.

    ## What it does
    Finds parameters that do not require grad and whose values change in a recorded step of an optimizer that holds
    them.

    ## Why it is bad
    `requires_grad_(False)` stops new gradient, not the optimizer: where an old gradient stays in place, zeroed
    rather than removed, momentum and weight decay go on moving the parameter.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)
        seen = []

        def step():
            if len(seen) == 1:
                model[0].requires_grad_(False)
            seen.append(1)
            optimizer.zero_grad(set_to_none=False)
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)
        seen = []

        def step():
            if len(seen) == 1:
                model[0].requires_grad_(False)
            seen.append(1)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Only the time of the step is looked at: values that user code copies into a frozen network between steps
    (targets, averages) are its own business.

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "GL306"
    name = "frozen-parameter-still-moves"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = trace.training
        assert training is not None
        found: dict[int, tuple[Step, list[Parameter]]] = {}
        for step in training.steps:
            for parameter in trace.parameters:
                content = step.content.get(parameter.key)
                if content is None or content.trainable or not content.moved:
                    continue
                at = next((e.site for e in reversed(parameter.history) if _freezes(e, step)), step.site)
                _, known = found.setdefault(at, (step, []))
                if parameter not in known:
                    known.append(parameter)
        for at, (step, parameters) in found.items():
            stepped = [o for o in trace.optimizers if o.key in step.optimizers]
            yield context.finding(
                self,
                f"{context.names(parameters)} are frozen and still moved by the optimizer: an old gradient, momentum "
                "or weight decay acts on them.",
                at=at,
                parameters=parameters,
                related=[
                    context.related("moved by this step", step.site),
                    *context.callers(at),
                    *(context.related(f"{o.type} is made here", o.site) for o in stepped),
                ],
                fix=Fix("Set p.grad = None when freezing, or make the optimizer anew without these parameters."),
            )


def _freezes(event: Event, step: Step) -> bool:
    return event.kind == "freeze" and event.number < step.event
