"""GL302 trainable-parameter-not-in-optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import (
    Context,
    Finding,
    Fix,
    Optimizer,
    Parameter,
    Rule,
    Severity,
    group_location,
    in_bytes,
    in_flops,
    nearest_optimizer,
    weight_gradient_flops,
)


class TrainableParameterNotInOptimizer(Rule):
    """Gradient reaches a parameter that no optimizer holds.

    ## What it does
    Finds parameters that require grad, that the loss's gradient reaches, and that are in no optimizer's groups.

    ## Why it is bad
    Their gradient is computed in every step and never applied: the layer stays at its initial values, and the time and
    memory for its gradient are wasted. Where the layer was created after the optimizer, the optimizer trains what it
    replaced.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model[2].parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Copies of a network that trains (target networks) and loss networks in eval mode weigh info: gradient is wasted on
    them, and nothing is lost. Parameters that an optimizer outside of the set-up steps are not known.

    ## References
    https://pytorch.org/docs/stable/optim.html#constructing-it
    """

    code = "GL302"
    name = "trainable-parameter-not-in-optimizer"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "loss"})
    yields_to = frozenset({"GL104", "GL304", "GL307"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        flow = context.flow
        stepped = {key for step in trace.training.steps for key in step.content} if trace.training else set()
        missing = [
            p
            for p in context.unreported(self, trace.parameters)
            if p.requires_grad
            and not p.groups
            and p.index in flow.reached
            and p.index not in trace.recreated  # no optimizer can hold them
            and p.key not in stepped
            and p.numel
        ]
        groups: dict[tuple[int, Severity], list[Parameter]] = {}
        for parameter in missing:
            optimizer = nearest_optimizer(context.trace, parameter)
            groups.setdefault((optimizer.number, _severity(context, parameter)), []).append(parameter)
        for (number, severity), parameters in groups.items():
            yield self._finding(context, trace.optimizers[number], severity, parameters)

    def _finding(
        self, context: Context, optimizer: Optimizer, severity: Severity, parameters: list[Parameter]
    ) -> Finding:
        first = next((e for e in parameters[0].history if e.kind == "register"), None)
        created = first.site if first else context.trace.modules[parameters[0].module].registered_at
        saved = f"{in_bytes(sum(p.bytes for p in parameters))} of gradients"
        flops = sum(weight_gradient_flops(context.trace, p) for p in parameters)
        if flops:
            saved += f" and {in_flops(flops)} per step"
        what = "is" if len(parameters) == 1 else "are"
        if severity == Severity.ERROR:
            what = f"(created at {context.place(created)}, after {optimizer.type} was made) {what}"
        empty = [group_location(context.trace, optimizer, g) for g in optimizer.groups if not g.keys]
        return context.finding(
            self,
            f"{context.names(parameters)} {what} in no optimizer: the gradient is computed in every step and never "
            f"applied.",
            at=optimizer.site,
            parameters=parameters,
            related=[
                context.related("created here", created),
                *(context.related("its parameters are chosen here", at) for at in optimizer.arguments.chosen_at),
                *(context.related("this group is empty", at) for at in empty[:2]),
                *context.callers(optimizer.site, "made from here", 1),
                *(
                    context.related("and in none of this one's groups", other.site)
                    for other in context.trace.optimizers[:4]
                ),
            ],
            fix=Fix(f"Add them to a group; or, if they are meant to stay, freeze them, which saves {saved}."),
            severity=severity,
        )


def _severity(context: Context, parameter: Parameter) -> Severity:
    trace = context.trace
    if any(trace.parameters[i].requires_grad for i in parameter.twin_of) or parameter.written:
        return Severity.INFO
    module = trace.modules[parameter.module]
    if not parameter.in_tree and not module.training:
        return Severity.INFO
    first = next((e for e in parameter.history if e.kind == "register"), None)
    if first is not None and first.number > max(o.event for o in trace.optimizers):
        return Severity.ERROR
    return Severity.WARNING
