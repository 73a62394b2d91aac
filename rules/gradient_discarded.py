"""GL511 gradient-discarded."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import cast

from gradlint import Context, Finding, Fix, Op, Optimizer, Rule, Severity, Step, Trace, Training
from gradlint.source import syntax_tree
from gradlint.traces import Backward, BackwardIndex, ParameterKey, SiteId, ValueId, ZeroGradCalled


class GradientDiscarded(Rule):
    """Gradient that is cleared before a step applies it.

    ## What it does
    Finds a call that clears gradients between every two passes of the same `backward()`, while the optimizer steps only
    after some of them. The gradient of the other passes is discarded unread.

    ## Why it is bad
    If gradients should accumulate over several batches, only the last batch before each step trains, with a gradient
    that was divided for all of them. The loss still falls, so the mistake is easily missed.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(4)]

        def step():
            for x, y in batches:
                optimizer.zero_grad()
                loss = nn.functional.mse_loss(model(x), y) / len(batches)
                loss.backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        batches = [(torch.randn(6, 4), torch.randn(6, 2)) for _ in range(4)]

        def step():
            optimizer.zero_grad()
            for x, y in batches:
                loss = nn.functional.mse_loss(model(x), y) / len(batches)
                loss.backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Not reported if user code reads a gradient meanwhile (of an attacked input, or for a logged norm), or if hooks may
    read it. Not reported if the clear stands in a branch (a batch skipped on purpose). The source must show that the
    step is rare by counting: a remainder in the condition before it, or a loop before it. Gradient set to None by hand
    is not seen.

    ## References
    https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
    """

    code = "GL511"
    name = "gradient-discarded"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE = (
        "this call clears the gradient of {parameters} before a step applies it: {wasted} of {passes} backward passes "
        "have no effect."
    )
    FIX = "Clear the gradient once per step: right after step(), or before the first backward() of the next step."

    def check(self, context: Context) -> Iterator[Finding]:
        if _may_be_read_by_hooks(context.trace):
            return
        for optimizer in context.trace.optimizers:
            reaching = [b for b in context.training.backwards if not optimizer.keys.isdisjoint(b.deposits)]
            for _, passes in context.by_place(reaching, lambda b: b.site):
                yield from self._judged(context, optimizer, passes)

    def _judged(self, context: Context, optimizer: Optimizer, passes: list[Backward]) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        applied = [b for b in passes if any(_applies(training.steps[s], b, optimizer.keys) for s in b.applied_by)]
        periods = {passes.index(after) - passes.index(before) for before, after in itertools.pairwise(applied)}
        if len(periods) != 1:
            return  # not stepped by counting
        step = training.steps[min(applied[0].applied_by)]
        severity = _severity(trace, passes[0], step, *periods)
        if severity is None:
            return
        for site, discarded in _discarded(training, optimizer.keys).items():
            wasted = [b for b in passes if b.number in discarded and not (b.applied_by or b.read)]
            if len(wasted) < 2 or not _between_all(trace, site, passes):
                continue
            hit = [p for p in trace.parameters if any(p.key in discarded[b.number] for b in wasted)]
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(hit), wasted=len(wasted), passes=len(passes)),
                at=site,
                parameters=hit,
                related=[
                    context.related("this backward() computes the gradient", passes[0].site),
                    context.related("the step is here", step.site),
                    context.created(optimizer),
                ],
                fix=Fix(self.FIX),
                severity=severity,
            )


def _discarded(
    training: Training, keys: frozenset[ParameterKey]
) -> dict[SiteId, dict[BackwardIndex, set[ParameterKey]]]:
    """Return site of a clear → number of a backward pass → parameters it lost there."""
    discarded: dict[SiteId, dict[BackwardIndex, set[ParameterKey]]] = {}
    for clear in training.clears:
        passes = discarded.setdefault(clear.site, {})
        for key in keys.intersection(clear.discarded):
            for number in clear.discarded[key]:
                passes.setdefault(number, set()).add(key)
    return discarded


def _applies(step: Step, backward: Backward, keys: frozenset[ParameterKey]) -> bool:
    """Return True if a step applies gradient of a backward pass to any of the parameters."""
    return any(backward.number in content.backwards for key, content in step.content.items() if key in keys)


def _between_all(trace: Trace, site: SiteId, passes: list[Backward]) -> bool:
    """Return True if a clear runs between every two passes: in no branch that skips."""
    clears = [e.number for e in trace.events_of(ZeroGradCalled) if e.site == site]
    return all(
        any(before.event < number < after.event for number in clears) for before, after in itertools.pairwise(passes)
    )


def _severity(trace: Trace, backward: Backward, step: Step, period: int) -> Severity | None:
    """Return how certain it is that the passes are to be summed.

    None if the step may depend on data.
    """
    backward_frame, step_frame = trace.frame(backward.site), trace.frame(step.site)
    if backward_frame is None or step_frame is None or backward_frame.code != step_frame.code:
        return None
    first, second = backward_frame.location.line, step_frame.location.line
    nodes = list(ast.walk(syntax_tree(backward_frame.path)))
    loops = [n for n in nodes if isinstance(n, ast.For | ast.While) and first in _lines(n) and second not in _lines(n)]
    if loops:
        counted = all(isinstance(n, ast.For) and not any(isinstance(m, ast.Break) for m in ast.walk(n)) for n in loops)
        return Severity.ERROR if counted else None
    if not any(isinstance(n, ast.If) and _counts(n, first, second) for n in nodes):
        return None
    # with several optimizers, one that is stepped every few iterations is an idiom, if a wasteful one
    averaged = any(_is_divided(trace, root, period) for root in backward.roots)
    return Severity.ERROR if averaged or len(trace.optimizers) == 1 else Severity.INFO


def _counts(node: ast.If, backward: int, step: int) -> bool:
    """Return True if a condition with a remainder decides on the step alone."""
    if backward in _lines(node) or not any(isinstance(n, ast.Mod) for n in ast.walk(node.test)):
        return False
    skips = isinstance(node.body[-1], ast.Continue | ast.Return)
    return step in _lines(node) or (skips and backward < node.lineno < step)


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, cast("int", node.end_lineno) + 1)


def _is_divided(trace: Trace, root: ValueId, number: int) -> bool:
    """Return True if a loss was divided by exactly this number."""
    op = trace.made_by(root)
    scales = op is not None and ("div" in op.name or "mul" in op.name)
    return scales and any(argument in (number, 1 / number) for argument in cast("Op", op).args)


def _may_be_read_by_hooks(trace: Trace) -> bool:
    """Return True if a module or parameter has backward hooks, which may read gradients unseen."""
    return any(m.has_hook for m in trace.modules) or any(p.has_hook for p in trace.parameters)
