"""GL511 gradient-discarded."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from typing import cast

from gradlint import (
    Backward,
    Context,
    Finding,
    Fix,
    Op,
    Optimizer,
    Rule,
    Severity,
    Step,
    Trace,
    Training,
    syntax_tree,
)


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

    def check(self, context: Context) -> Iterator[Finding]:
        training = context.trace.training
        assert training is not None
        if _hooked(context):
            return
        for optimizer in context.trace.optimizers:
            passes: dict[int, list[Backward]] = {}
            for backward in training.backwards:
                if not optimizer.keys.isdisjoint(backward.deposits):
                    passes.setdefault(backward.site, []).append(backward)
            for group in passes.values():
                yield from self._judged(context, training, optimizer, group)

    def _judged(
        self, context: Context, training: Training, optimizer: Optimizer, group: list[Backward]
    ) -> Iterator[Finding]:
        applied = [b for b in group if any(_applies(training.steps[s], b, optimizer.keys) for s in b.applied_by)]
        periods = {group.index(after) - group.index(before) for before, after in itertools.pairwise(applied)}
        if len(periods) != 1:
            return  # not counted
        step = training.steps[min(applied[0].applied_by)]
        severity = _severity(context.trace, group[0], step, *periods)
        for site, lost in _thrown_away(training, optimizer.keys).items():
            wasted = [b for b in group if b.number in lost and not (b.applied_by or b.read)]
            if severity is None or len(wasted) < 2 or not _between_all(context, site, group):
                continue
            hit = [p for p in context.trace.parameters if any(p.key in lost[b.number] for b in wasted)]
            yield context.finding(
                self,
                f"this clears what the backward pass has just given to {context.names(hit)}, before a step applies it: "
                f"of {len(group)} passes, {len(wasted)} were for nothing.",
                at=site,
                parameters=hit,
                related=[
                    context.related("the backward pass", group[0].site),
                    context.related("stepped here", step.site),
                    context.related(f"{optimizer.type} is made here", optimizer.site),
                ],
                fix=Fix("Clear once for each step: right after it, or before the first of the passes that it sums up."),
                severity=severity,
            )


def _thrown_away(training: Training, keys: frozenset[int]) -> dict[int, dict[int, set[int]]]:
    """Site of a clear → number of a backward pass → those of some parameters whose gradient it lost there."""
    found: dict[int, dict[int, set[int]]] = {}
    for clear in training.clears:
        lost = found.setdefault(clear.site, {})
        for key in keys.intersection(clear.discarded):
            for number in clear.discarded[key]:
                lost.setdefault(number, set()).add(key)
    return found


def _applies(step: Step, backward: Backward, keys: frozenset[int]) -> bool:
    """Whether a step applies what a backward pass gave to some parameters."""
    return any(backward.number in content.backwards for key, content in step.content.items() if key in keys)


def _between_all(context: Context, site: int, group: list[Backward]) -> bool:
    """Whether a clear is called between every two passes: it stands in no branch that skips a batch."""
    clears = [e.number for e in context.trace.events_of("clear") if e.site == site]
    return all(
        any(before.event < number < after.event for number in clears) for before, after in itertools.pairwise(group)
    )


def _severity(trace: Trace, backward: Backward, step: Step, period: int) -> Severity | None:
    """How sure it is that the passes between two steps were to be summed; None where a step may depend on the data."""
    passes, steps = trace.frame(backward.site), trace.frame(step.site)
    if passes is None or steps is None or passes.code is not steps.code:
        return None
    first, second = passes.location.line, steps.location.line
    nodes = list(ast.walk(syntax_tree(passes.path)))
    loops = [n for n in nodes if isinstance(n, ast.For | ast.While) and first in _lines(n) and second not in _lines(n)]
    if loops:
        counted = all(isinstance(n, ast.For) and not any(isinstance(m, ast.Break) for m in ast.walk(n)) for n in loops)
        return Severity.ERROR if counted else None
    if not any(isinstance(n, ast.If) and _counts(n, first, second) for n in nodes):
        return None
    # with several optimizers, one that is stepped every few iterations is an idiom, if a wasteful one
    averaged = any(_divided(trace, root, period) for root in backward.roots)
    return Severity.ERROR if averaged or len(trace.optimizers) == 1 else Severity.INFO


def _counts(node: ast.If, backward: int, step: int) -> bool:
    """Whether a condition with a remainder lets a step through, and lies not around the backward pass as well."""
    if backward in _lines(node) or not any(isinstance(n, ast.Mod) for n in ast.walk(node.test)):
        return False
    skips = isinstance(node.body[-1], ast.Continue | ast.Return)
    return step in _lines(node) or (skips and backward < node.lineno < step)


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, cast("int", node.end_lineno) + 1)


def _divided(trace: Trace, root: int, number: int) -> bool:
    """Whether a loss was divided by just that number."""
    op = trace.made_by(root)
    scales = op is not None and ("div" in op.name or "mul" in op.name)
    return scales and any(argument in (number, 1 / number) for argument in cast("Op", op).args)


def _hooked(context: Context) -> bool:
    """Whether hooks may take gradients where nobody sees them."""
    trace = context.trace
    return any(m.has_hook for m in trace.modules) or any(p.has_hook for p in trace.parameters)
