"""GL302 trainable-parameter-not-in-optimizer."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Optimizer, Parameter, Rule, Severity, Training
from gradlint.flow import group_location, in_bytes, in_flops, nearest_optimizer, optimizer_label, weight_gradient_flops


class TrainableParameterNotInOptimizer(Rule):
    """A parameter with a gradient that no optimizer contains.

    ## What it does
    Finds parameters that require grad and get a gradient from the loss, but are in no optimizer's groups.

    ## Why it is bad
    Every step computes their gradient and never applies it. The layer keeps its initial values, and the time and memory
    for its gradient are wasted. If the layer was created after the optimizer, the optimizer trains the one it replaced.

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
    The severity is info for copies of a network that trains (target networks) and for loss networks in eval mode: only
    time is wasted. An optimizer outside of the training setup is unknown. A parameter that is frozen in turns is
    reported after two steps if it gets gradient at every backward pass for which it is unfrozen.

    ## References
    https://pytorch.org/docs/stable/optim.html#constructing-it
    """

    code = "GL302"
    name = "trainable-parameter-not-in-optimizer"
    severity = Severity.WARNING
    needs = frozenset({"optimizer", "loss"})
    yields_to = frozenset({"GL104", "GL304", "GL305", "GL307"})

    MESSAGE = "{parameters} {are} in no optimizer: every step computes a gradient and never applies it."
    MESSAGE_LATE = "{parameters} {are} in no optimizer: created at {created}, after {optimizer} was created."
    MESSAGE_WRITTEN = "{parameters} {are} in no optimizer: the training step writes {them} outside of optimizers."
    FIX = (
        "Add {them} to a group, for example by add_param_group(). If {they} should not train, freeze {them}, "
        "which saves {saved}."
    )
    FIX_PASSED = (
        "Freeze {them}: gradient still passes through to what {optimizer} trains, and the freeze saves {saved}. If "
        "{they} should train, add {them} to a group."
    )
    FIX_WRITTEN = "Leave {them} out if these writes train {them}, as those of a master copy do. Otherwise add {them}."
    FIX_REFUSED = (
        "Give {them} to an optimizer of their own, such as AdamW: {optimizer} takes 2-D parameters only. If {they} "
        "should not train, freeze {them}, which saves {saved}."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        stepped = {key for step in trace.training.steps for key in step.content} if trace.training else set()
        missing = [
            p
            for p in context.unreported(self, trace.parameters)
            if p.requires_grad
            and not p.groups
            and p.index in flow.reached
            and p.index not in trace.recreated  # no optimizer can hold them
            and p.key not in stepped
            and (trace.training is None or _lacks_optimizer(trace.training, p))
            and p.numel
        ]
        groups = context.by_place(
            missing, lambda p: (nearest_optimizer(trace, p).number, _severity(context, p), bool(p.written))
        )
        for (number, severity, _), parameters in groups:
            yield self._finding(context, trace.optimizers[number], severity, parameters)

    def _finding(
        self, context: Context, optimizer: Optimizer, severity: Severity, parameters: list[Parameter]
    ) -> Finding:
        first = parameters[0].created_by
        created = first.site if first else context.trace.modules[parameters[0].module].registered_at
        saved = f"{in_bytes(sum(p.bytes for p in parameters))} of gradients"
        flops = sum(weight_gradient_flops(context.flow, p) for p in parameters)
        if flops:
            saved += f" and {in_flops(flops)} per step"
        advice = self._advice(context, optimizer, parameters)
        template = self.MESSAGE_LATE if severity == Severity.ERROR else self.MESSAGE
        if parameters[0].written:
            template, advice = self.MESSAGE_WRITTEN, self.FIX_WRITTEN
        empty = [group_location(context.trace, optimizer, g) for g in optimizer.groups if not g.keys]
        return context.finding(
            self,
            context.fill(template, parameters, created=context.place(created), optimizer=optimizer.type),
            at=optimizer.site,
            parameters=parameters,
            related=[
                context.related("created here", created),
                *(context.related("its parameters are chosen here", at) for at in optimizer.arguments.chosen_at[:3]),
                *(context.related("this group is empty", at) for at in empty[:2]),
                *context.callers(optimizer.site, "called here", 1),
                *(context.related("not in this optimizer either", o.site) for o in context.trace.optimizers[:4]),
            ],
            fix=Fix(context.fill(advice, parameters, saved=saved, optimizer=optimizer_label(optimizer))),
            severity=severity,
        )

    def _advice(self, context: Context, optimizer: Optimizer, parameters: list[Parameter]) -> str:
        """Return the template of the fix that can be followed and does no harm."""
        if optimizer.type.endswith("Muon") and any(len(p.shape) != 2 for p in parameters):
            return self.FIX_REFUSED
        return self.FIX_PASSED if _passes_gradient_on(context, parameters) else self.FIX


def _lacks_optimizer(training: Training, parameter: Parameter) -> bool:
    """Return True if a parameter got gradient at every pass for which it was unfrozen.

    One that was frozen in turns must have been seen over two steps.
    """
    passes = training.passes_with(parameter.key)
    if len(passes) == len(training.backwards):
        return True
    return len(training.steps) > 1 and all(parameter.key in b.deposits for b in passes)


def _passes_gradient_on(context: Context, parameters: list[Parameter]) -> bool:
    """Return True if parameters are a whole network, behind which an optimizer holds others."""
    trace = context.trace
    lost = {p.index for p in parameters}
    networks = set()
    for module in trace.modules:
        trainable = {p.index for p in trace.below(module) if p.requires_grad} if module.parent < 0 else set()
        if module.in_tree and trainable and trainable <= lost:
            networks.add(module.number)
    inside = {n for n, call in enumerate(trace.calls) if any(m.number in networks for m in trace.around(call.module))}
    read = {value for op in trace.ops[trace.forward_start :] if op.call in inside for value in op.inputs}
    return any(p.groups for p in context.flow.trained_by(read))


def _severity(context: Context, parameter: Parameter) -> Severity:
    trace = context.trace
    if trace.has_trainable_twin(parameter) or parameter.written:
        return Severity.INFO
    module = trace.modules[parameter.module]
    if not parameter.in_tree and not module.training:
        return Severity.INFO
    first = parameter.created_by
    if first is not None and first.number > max(o.event for o in trace.optimizers):
        return Severity.ERROR
    return Severity.WARNING
