"""GL203 frozen-dropout-active."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Module, Op, Parameter, Rule, Severity, Trace
from gradlint.rulekit import inflect, patterns_of, plural
from gradlint.traces import ValueId


class FrozenDropoutActive(Rule):
    """Dropout that is active inside a frozen network.

    ## What it does
    Finds dropout layers that ran in train mode inside subtrees without any trainable parameter. The severity is warning
    if the loss compares the output of the frozen network with another one (a teacher), else info.

    ## Why it is bad
    A frozen network is meant to be a fixed function. With dropout, its features change at random in every step, or even
    the targets that the student is compared with.

    ## Example
    ```python
    import torch
    from torch import nn

    class Distill(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = nn.Linear(4, 2)
            self.teacher = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).requires_grad_(False)

        def forward(self, x):
            return (self.student(x) - self.teacher(x)).square().mean()

    def build():
        return {"model": Distill(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Distill(nn.Module):
        def __init__(self):
            super().__init__()
            self.student = nn.Linear(4, 2)
            self.teacher = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)).requires_grad_(False)

        def train(self, mode=True):
            super().train(mode)
            self.teacher.eval()
            return self

        def forward(self, x):
            return (self.student(x) - self.teacher(x)).square().mean()

    def build():
        return {"model": Distill().train(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Functional dropout is not checked.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Dropout.html
    """

    code = "GL203"
    name = "frozen-dropout-active"
    severity = Severity.INFO
    needs = frozenset({"forward"})

    MESSAGE = "{count} {are} active inside the frozen {module}: {effect} in every step."
    RANDOM_TARGETS = "the targets of the loss change at random"
    RANDOM_OUTPUT = "the output changes at random"
    FIX = "Put the frozen network in eval mode, and keep it there by overriding train()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if not any(p.requires_grad for p in trace.parameters):
            return  # nothing trains: an evaluation
        ran = {c.module for c in trace.calls if c.training and c.start >= trace.forward_start}
        active: list[tuple[Location | None, Module, Module]] = []
        for module in trace.modules:
            if module.number not in ran or not module.is_active_dropout:
                continue
            top = _frozen_top(context, module)
            if top is None:
                continue
            active.append((trace.location(context.freeze_site(top, trace.below(top))), top, module))
        targets = {top.number: _gives_target(context, trace.below(top)) for _, top, _ in active}
        # what one line froze is one finding
        for (where, target), layers in context.by_place(active, lambda item: (item[0], targets[item[1].number])):
            tops = list({top.number: top for _, top, _ in layers}.values())
            parameters = [p for top in tops for p in trace.below(top)]
            freeze = context.first_freeze(parameters)
            yield context.finding(
                self,
                self.MESSAGE.format(
                    count=plural(len(layers), "dropout layer"),
                    are=inflect(layers, "are"),
                    module=patterns_of([top.fqn for top in tops], limit=2),
                    effect=self.RANDOM_TARGETS if target else self.RANDOM_OUTPUT,
                ),
                at=where,
                parameters=parameters,
                related=context.callers(freeze.site) if freeze else (),
                fix=Fix(self.FIX),
                severity=Severity.WARNING if target else None,
            )


def _frozen_top(context: Context, module: Module) -> Module | None:
    """Return the widest subtree around a module whose parameters are all frozen throughout."""
    top = None
    for above in context.trace.around(module.parent):
        parameters = context.trace.below(above)
        if not all(p.frozen_throughout and not p.written for p in parameters):
            break
        if parameters:
            top = above
    return top


def _gives_target(context: Context, parameters: list[Parameter]) -> bool:
    """Return True if the loss compares the output of a frozen network with a trainable value.

    Not if the frozen network is a copy of one that trains: a mean teacher is meant to be noisy.
    """
    trace = context.trace
    if any(map(trace.has_trainable_twin, parameters)):
        return False
    own = sum(1 << parameter.index for parameter in parameters)
    data, live = context.flow.masks.data, context.flow.masks.live
    compared = _compared(context)
    meets = False
    for op in trace.ops[trace.forward_start :]:
        inputs = [v for v in op.inputs if data.get(v, 0) & own and v not in trace.owners]
        if all(live.get(v, 0) for v in inputs):
            continue
        others = [v for v in op.inputs if live.get(v, 0)]
        if any(v in trace.owners for v in others):
            return False
        if others and not compared.isdisjoint(op.outputs) and not _in_model(trace, op):
            meets = True
    return meets


def _compared(context: Context) -> set[ValueId]:
    """Return the values that reach the loss through no trainable parameter."""
    trace, live = context.trace, context.flow.masks.live
    values = set(trace.roots)
    for op in reversed(trace.ops[trace.forward_start :]):
        trained = any(v in trace.owners and live.get(v, 0) for v in op.inputs)
        if not trained and not values.isdisjoint(op.outputs):
            values.update(op.inputs)
    return values


def _in_model(trace: Trace, op: Op) -> bool:
    """Return True if an op ran in a forward of the model, not in the loss."""
    return any(trace.modules[trace.calls[number].module].in_tree for number in trace.calls_around(op.call))
