"""GL504 step-without-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Clear, Context, Finding, Fix, Optimizer, Related, Rule, Severity, Step, Training, uncalled


class StepWithoutGradient(Rule):
    """An optimizer that is stepped while none of its parameters has a gradient.

    ## What it does
    Finds optimizers whose parameters have no gradient at any of their recorded steps. Either the gradient is cleared
    between backward and step, or no backward reaches the parameters.

    ## Why it is bad
    The step does nothing: the parameters keep their values while the training loop looks correct.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.zero_grad()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            loss = nn.functional.mse_loss(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Optimizers with only frozen parameters are reported by GL301, and parameters whose gradient path is cut by GL401 to
    GL405. Not reported if only some steps lack gradient (alternating phases).

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "GL504"
    name = "step-without-gradient"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = trace.training
        assert training is not None
        flow = context.flow
        # of a step without any backward, those rules say nothing
        lost = set() if flow.waits_for_step else flow.starved | flow.unused | flow.undecided
        for optimizer in trace.optimizers:
            keys = optimizer.keys
            steps = [s for s in training.steps if optimizer.key in s.optimizers]
            contents = [c for s in steps for c in s.content.values()]
            if any(c.backwards or c.nonzero for c in contents):
                continue
            mine = [p for p in trace.parameters if p.key in keys]
            if not any(c.trainable for c in contents) or any(p.index in lost for p in mine):
                continue  # other rules speak of these
            clear = next((c for c in training.clears if _before_a_step(c, keys, steps, training)), None)
            yield self._finding(context, optimizer, steps, clear)

    def _finding(self, context: Context, optimizer: Optimizer, steps: list[Step], clear: Clear | None) -> Finding:
        keys = optimizer.keys
        if clear is not None:
            why = "their gradient is cleared between the backward and the step"
            fix = "Clear before the backward or after the step, not between the two."
        else:
            why = "no backward reaches them before it"
            fix = "Call backward() on a loss that depends on them before the step."
        parameters = [p for p in context.trace.parameters if p.key in keys]
        return context.finding(
            self,
            f"{optimizer.type} is stepped and none of its parameters has a gradient: {why} "
            f"({context.names(parameters)}).",
            at=steps[0].site,
            parameters=parameters,
            related=[
                context.related("cleared here", clear.site) if clear is not None else None,
                *(Related("named here, and not called", at) for at in uncalled(context.trace, "backward")),
                context.related(f"{optimizer.type} is made here", optimizer.site),
            ],
            fix=Fix(fix),
        )


def _before_a_step(clear: Clear, keys: frozenset[int], steps: list[Step], training: Training) -> bool:
    """Whether a clear threw away what a backward had left since the last step, and a step came next."""
    lost = [training.backwards[b] for k, numbers in clear.discarded.items() if k in keys for b in numbers]
    if not lost:
        return False
    after = next((s for s in steps if s.event > clear.event), None)
    return after is not None and not any(clear.event < b.event < after.event for b in training.backwards)
