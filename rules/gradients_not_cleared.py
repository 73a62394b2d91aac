"""GL501 gradients-not-cleared."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, SourceContext, Step, Training
from gradlint.source import CodeEffect, EffectKind, bound_in, functions_and_loops
from gradlint.traces import Backward, Content


class GradientsNotCleared(Rule):
    """A step applies gradient that an earlier step already applied.

    ## What it does
    Finds parameters stepped with the sum of new gradient and gradient that an earlier step already applied. Nothing
    cleared it between the steps. Every way of clearing counts: `zero_grad`, `p.grad = None`, zeroing by hand.

    ## Why it is bad
    `backward()` adds to `.grad`. Without clearing, each step applies the sum of all gradients so far. This acts like
    momentum that never decays: training diverges or becomes slow.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(3)]

        def epoch():
            for x, y in batches:
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": epoch}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(3)]

        def epoch():
            for x, y in batches:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y)
                loss.backward()
                optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": epoch}
    ```

    ## Known limits
    Several backward passes before one step (gradient accumulation) are not reported. Gradient that user code replaces
    with another tensor counts as cleared. In a source file alone, the rule judges loops that contain backward and step,
    also in functions of the file that they call. A call of other code that gets the optimizer or a model may clear.

    ## References
    https://pytorch.org/tutorials/recipes/recipes/zeroing_out_gradients.html
    """

    code = "GL501"
    name = "gradients-not-cleared"
    severity = Severity.ERROR
    needs = frozenset({"step"})
    yields_to = frozenset({"GL305"})
    source_prefilter = ("backward(", ".step(")
    recording_overrides_source = True

    MESSAGE = (
        "backward() adds to gradient that an earlier step already applied: nothing clears the gradient of {parameters} "
        "between the steps."
    )
    MESSAGE_SOURCE = "backward() adds to gradient that {optimizer} already applied: nothing in this loop clears it."
    RELATED_STEP = "this step applies the sum"
    FIX = "Call optimizer.zero_grad() before backward(), or after each step."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        reported: set[ast.expr] = set()
        for function, loops in functions_and_loops(context.module):
            for loop in loops:
                effects = function.of_body(loop)
                for backward, step in _uncleared(effects, bound_in(loop)):
                    if backward.node not in reported:
                        reported.add(backward.node)
                        yield context.finding(
                            self,
                            self.MESSAGE_SOURCE.format(optimizer=step.object_name),
                            backward.node,
                            related=[context.related(self.RELATED_STEP, step.node)],
                            severity=None if step.is_known_optimizer else Severity.WARNING,
                            fix=Fix(self.FIX),
                        )

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        groups: dict[int, tuple[Backward, Step, dict[int, Parameter]]] = {}
        for step in training.steps:
            for parameter in trace.parameters:
                content = step.content.get(parameter.key)
                if content is not None and content.stale:
                    backward = _adding_backward(training, parameter.key, content)
                    _, _, members = groups.setdefault(backward.site, (backward, step, {}))
                    members[parameter.index] = parameter
        for backward, step, members in groups.values():
            parameters = list(members.values())
            numbers = {number for p in parameters for number, _ in p.groups}
            holders = [o for o in trace.optimizers if o.number in numbers]
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=backward.site if backward.site >= 0 else step.site,
                parameters=parameters,
                related=[
                    context.related(self.RELATED_STEP, step.site),
                    *context.uncalled("zero_grad"),
                    *map(context.created, holders[:2]),
                ],
                fix=Fix(self.FIX),
            )


def _uncleared(effects: list[CodeEffect], bound: set[str]) -> Iterator[tuple[CodeEffect, CodeEffect]]:
    """Yield (backward, step) for each step of a loop that certainly applies old gradient again."""
    if any(e.kind in (EffectKind.CLEAR_GRAD, EffectKind.ACCESS_GRAD) for e in effects):
        return
    backwards = [e for e in effects if e.kind is EffectKind.BACKWARD]
    for step in (e for e in effects if e.kind is EffectKind.STEP and e.object_name and not e.is_before_exit):
        if not backwards or _root(step.object_name) in bound or step.object_name in bound:
            continue
        models = {e.object_name for e in effects if e.kind is EffectKind.CALL}
        if not any(e.may_affect({step.object_name, *models}) for e in effects):
            yield backwards[-1], step


def _root(subject: str) -> str:
    return subject.replace("[", ".").split(".")[0]


def _adding_backward(training: Training, key: int, content: Content) -> Backward:
    """Return the first backward pass, run for a parameter, that added to applied gradient.

    Passes that only lead through the parameter to those of another optimizer come last.
    """
    fresh = [training.backwards[b] for b in content.backwards if b not in content.stale]
    own = (b for b in fresh if all(key in training.steps[s].content for s in b.applied_by))
    return next(own, fresh[-1])
