"""GL203 frozen-dropout-active."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Module, Op, Rule, Severity, Trace
from gradlint.rulekit import inflect, patterns_of, plural
from gradlint.traces import ModuleIndex, ValueId
from gradlint.traces.dataflow import mask_of, union


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
        changing = {
            module.number
            for parameter in trace.parameters
            if parameter.written or not parameter.frozen_throughout
            for holder in trace.holders[parameter.index]
            for module in trace.around(holder.number)
        }
        active: list[tuple[Module, Module]] = []
        for layer in trace.modules:
            if layer.number in ran and layer.is_active_dropout:
                frozen = itertools.takewhile(lambda m: m.number not in changing, trace.around(layer.parent))
                active += ((top, layer) for top in [m for m in frozen if trace.below(m)][-1:])
        targets, noisy = _targets(context) if active else (0, 0)
        kinds: dict[ModuleIndex, tuple[Location | None, bool]] = {}
        for top in {top.number: top for top, _ in active}.values():
            own = mask_of(p.index for p in trace.below(top))
            is_target = bool(own & targets) and not own & noisy
            kinds[top.number] = trace.location(context.freeze_site(top, trace.below(top))), is_target
        # what one line froze is one finding
        for (where, is_target), members in context.by_place(active, lambda pair: kinds[pair[0].number]):
            tops = list({top.number: top for top, _ in members}.values())
            parameters = [p for top in tops for p in trace.below(top)]
            freeze = context.first_freeze(parameters)
            yield context.finding(
                self,
                self.MESSAGE.format(
                    count=plural(len(members), "dropout layer"),
                    are=inflect(members, "are"),
                    module=patterns_of([top.fqn for top in tops], limit=2),
                    effect=self.RANDOM_TARGETS if is_target else self.RANDOM_OUTPUT,
                ),
                at=where,
                parameters=parameters,
                related=context.callers(freeze.site) if freeze else (),
                fix=Fix(self.FIX),
                severity=Severity.WARNING if is_target else None,
            )


def _targets(context: Context) -> tuple[int, int]:
    """Return the parameters behind a target of the loss, and those whose networks may be noisy.

    The second are copies of trainable ones, as a mean teacher's, and those whose output a trainable layer reads.
    """
    trace, data, live = context.trace, context.flow.masks.data, context.flow.masks.live
    compared = _compared(context)
    targets, noisy = 0, mask_of(p.index for p in trace.parameters if trace.has_trainable_twin(p))
    for op in trace.ops[trace.forward_start :]:
        trained = [v for v in op.inputs if live.get(v, 0)]
        fixed = union(data, (v for v in op.inputs if v not in trained and v not in trace.owners))
        if any(v in trace.owners for v in trained):
            noisy |= fixed
        elif trained and not compared.isdisjoint(op.outputs) and not _in_model(trace, op):
            targets |= fixed
    return targets, noisy


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
