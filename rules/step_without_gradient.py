"""GL504 step-without-gradient."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import (
    Context,
    Finding,
    Fix,
    Optimizer,
    Parameter,
    Related,
    Rule,
    Severity,
    SourceContext,
    SourceModule,
    Step,
    Training,
)
from gradlint.flow import optimizer_label
from gradlint.rulekit import cleared_gradients
from gradlint.source import CodeEffect, EffectKind, FunctionEffects, dotted_text, functions_and_loops, preceding
from gradlint.traces import Clear, GradModeOff
from gradlint.traces.ids import NO_EVENT, NO_SITE


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
    GL405. Not reported if only some steps lack gradient (alternating phases), or if it is NaN and code
    overwrites it with zeros. In a source file alone, the clear must certainly run between the two calls.

    ## References
    https://pytorch.org/docs/stable/generated/torch.optim.Optimizer.zero_grad.html
    """

    code = "GL504"
    name = "step-without-gradient"
    severity = Severity.ERROR
    needs = frozenset({"step"})
    yields_to = frozenset({"GL305"})
    source_prefilter = ("backward(", ".step(", "zero_grad")
    recording_overrides_source = True

    MESSAGE_CLEARED = (
        "{optimizer} is stepped without gradient: between backward() and step(), the gradient of {parameters} is "
        "cleared."
    )
    MESSAGE_UNREACHED = "{optimizer} is stepped without gradient: no backward() before it reaches {parameters}."
    RELATED_OFF = "grad mode is switched off here, and the loss is computed without gradient"
    MESSAGE_SOURCE = "{optimizer} is stepped without gradient: it is cleared between backward() and step()."
    RELATED_BACKWARD = "this backward() computes the gradient"
    RELATED_CLEAR = "cleared here"
    RELATED_SET = "gradient is set here"
    FOREIGN = "tensors outside the model"
    FIX_CLEARED = "Clear gradient before backward() or after step(), not between them."
    FIX_UNREACHED = "Call backward() before the step, on a loss that depends on these parameters."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for function, _ in functions_and_loops(module):
            for step in function.own_steps():
                found = _cleared_before(module, function, step)
                if found is not None:
                    backward, clear = found
                    yield context.finding(
                        self,
                        self.MESSAGE_SOURCE.format(optimizer=step.object_name),
                        step.node,
                        related=[
                            context.related(self.RELATED_BACKWARD, backward.node),
                            context.related(self.RELATED_CLEAR, clear.node),
                        ],
                        severity=None if step.is_known_optimizer else Severity.WARNING,
                        fix=Fix(self.FIX_CLEARED),
                    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training, flow = context.trace, context.training, context.flow
        # where no step runs a backward, no other rule reports these
        reported = set() if flow.waits_for_step else flow.starved | flow.unused
        if not flow.reached:
            reported = reported & flow.starved  # what no loss depends on is no detail where nothing is reached
        stale = {old.optimizer for old in flow.replaced} | {parted.optimizer.number for parted in flow.parted}
        for optimizer in trace.optimizers:
            keys = optimizer.keys
            steps = [s for s in training.steps if optimizer.key in s.optimizers]
            contents = [c for s in steps for c in s.content.values()]
            parameters = trace.with_keys(keys)
            if any(c.backwards or c.nonzero for c in contents) or not any(c.trainable for c in contents):
                continue
            if not parameters and (optimizer.number in stale or not any(t.is_read for t in optimizer.foreign)):
                continue
            if not any(p.index in reported for p in parameters):
                clear = next((c for c in training.clears if _precedes_step(c, keys, steps, training)), None)
                if any(not keys.isdisjoint(b.spoilt) for b in training.backwards):
                    continue  # user code replaces NaN gradients by zeros
                yield self._finding(context, optimizer, parameters, steps[0], clear)

    def _finding(
        self, context: Context, optimizer: Optimizer, parameters: list[Parameter], step: Step, clear: Clear | None
    ) -> Finding:
        template = self.MESSAGE_UNREACHED if clear is None else self.MESSAGE_CLEARED
        return context.finding(
            self,
            template.format(
                optimizer=optimizer_label(optimizer),
                parameters=context.names(parameters) if parameters else self.FOREIGN,
            ),
            at=step.site,
            parameters=parameters,
            related=[
                *self._cleared(context, clear, step),
                context.related(self.RELATED_OFF, self._grad_mode_off(context, parameters)),
                *context.uncalled("backward"),
                context.created(optimizer),
            ],
            fix=Fix(self.FIX_UNREACHED if clear is None else self.FIX_CLEARED),
        )

    def _cleared(self, context: Context, clear: Clear | None, step: Step) -> Iterator[Related | None]:
        """Yield where the gradient was cleared: a ``zero_grad()``, a write to it, or an assignment."""
        if clear is None:
            return
        if clear.site != NO_SITE:
            yield context.related(self.RELATED_CLEAR, clear.site)
            return
        lost = {number for numbers in clear.discarded.values() for number in numbers}
        first = min(context.training.backwards[number].op for number in lost)
        between = context.trace.ops[first : max(first, step.op)]
        written = next((op.site for op in between if op.name in _EMPTYING and context.by_user(op.site)), NO_SITE)
        if written != NO_SITE:
            yield context.related(self.RELATED_CLEAR, written)
        else:
            yield from (context.related(self.RELATED_SET, at) for at in cleared_gradients(context.trace)[:2])

    def _grad_mode_off(self, context: Context, parameters: list[Parameter]) -> GradModeOff | None:
        """Return the switch that kept grad mode off where the loss reads some parameters."""
        trace, flow = context.trace, context.flow
        wanted = sum(1 << p.index for p in parameters)
        for op in trace.ops[context.training.start :]:
            if op.region < 0 or flow.on_path.isdisjoint(op.outputs):
                continue
            if any(flow.masks.data.get(value, 0) & wanted for value in op.inputs):
                return trace.region(op.region)
        return None


_EMPTYING = frozenset("zero_ fill_ mul_ copy_ _foreach_zero_ _foreach_mul_ _foreach_copy_".split())
"""Calls that may overwrite a gradient by zeros."""


def _precedes_step(clear: Clear, keys: frozenset[int], steps: list[Step], training: Training) -> bool:
    """Return True if a clear discarded gradient and a step followed without a backward."""
    if not any(numbers for key, numbers in clear.discarded.items() if key in keys):
        return False
    if clear.event == NO_EVENT:
        return True
    after = next((s for s in steps if s.event > clear.event), None)
    return after is not None and not any(clear.event < b.event < after.event for b in training.backwards)


def _cleared_before(
    module: SourceModule, function: FunctionEffects, step: CodeEffect
) -> tuple[CodeEffect, CodeEffect] | None:
    """Return (backward, clear) if the clear runs after the last backward before a step."""
    statement = module.tree.statement(step.node)
    clear: CodeEffect | None = None
    between: list[ast.stmt] = []
    for before, is_earlier in preceding(module, statement) if statement is not None else ():
        effects = function.of(before)
        if any(
            e.kind is EffectKind.ACCESS_GRAD or (e.kind is EffectKind.STEP and e.object_name == step.object_name)
            for e in effects
        ):
            return None
        backward = next((e for e in effects if e.kind is EffectKind.BACKWARD), None)
        clears = [
            e
            for e in effects
            if e.kind is EffectKind.CLEAR_GRAD
            and e.object_name
            and e.object_name in (step.object_name, step.trained_model)
        ]
        if clear is None:
            if backward is not None or any(not e.is_unconditional for e in clears):
                return None
            if clears:
                clear = clears[0]
            elif any(e.kind is EffectKind.UNKNOWN for e in effects):
                between.append(before)
        elif backward is not None:
            is_summed = isinstance(before, ast.For | ast.AsyncFor)
            is_needed = _leads_to(between, before) if is_earlier else not between
            return (backward, clear) if (backward.is_unconditional or is_summed) and is_needed else None
        elif any(e.may_affect({step.object_name}) for e in effects):
            return None
    return None


def _leads_to(statements: list[ast.stmt], backward: ast.stmt) -> bool:
    """Return True if a backward reads what each of some statements computes, last first."""
    needed = _read(backward)
    for statement in statements:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if needed.isdisjoint(dotted_text(n) for target in targets for n in ast.walk(target)):
            return False
        needed |= _read(statement)
    return True


def _read(statement: ast.stmt) -> set[str]:
    nodes = (n for n in ast.walk(statement) if isinstance(n, ast.Name | ast.Attribute))
    return {dotted_text(n) for n in nodes if isinstance(n.ctx, ast.Load)}
