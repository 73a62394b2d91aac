"""GL513 ascent-gradient-kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, Step, Trace, Training
from gradlint.traces import Backward, BackwardIndex, ParameterIndex, ParameterKey, ParameterWrite, SiteId, propagate


class AscentGradientKept(Rule):
    """The gradient that moved the weights is still there when the pass at the new weights adds to it.

    ## What it does
    Finds steps that apply the sum of two backward passes. Between the passes, user code moves every one of the
    parameters by an amount computed from its own gradient. This is the ascent of sharpness-aware minimization (SAM)
    without the clear that follows it. An optimizer may also make the move in its own `step(closure)`.

    ## Why it is bad
    The step is to apply the gradient at the moved weights alone. Without the clear it applies the gradient at the old
    weights too, so that half of it is plain descent.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                ascent = [0.05 * p.grad for p in model.parameters()]
                for p, amount in zip(model.parameters(), ascent):
                    p.add_(amount)
            nn.functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                for p, amount in zip(model.parameters(), ascent):
                    p.sub_(amount)
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                ascent = [0.05 * p.grad for p in model.parameters()]
                for p, amount in zip(model.parameters(), ascent):
                    p.add_(amount)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            with torch.no_grad():
                for p, amount in zip(model.parameters(), ascent):
                    p.sub_(amount)
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Where only some of the parameters are moved, the sum is meant: adversarial training of embeddings (FGM) adds both
    gradients. Inside an optimizer's own step, a move counts if it follows the signs of the gradient, of 16 or more.

    ## References
    https://arxiv.org/abs/2010.01412
    """

    code = "GL513"
    name = "ascent-gradient-kept"
    severity = Severity.WARNING
    needs = frozenset({"step"})
    yields_to = frozenset({"GL501"})

    MESSAGE = (
        "backward() adds to the gradient that has just moved the weights: the step applies the sum of both to "
        "{parameters}."
    )
    RELATED_FIRST = "the gradient of this backward pass moves the weights"
    RELATED_MOVE = "they are moved here"
    FIX = "Call zero_grad() after the weights are moved, before this backward pass."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        found: dict[SiteId, tuple[Backward, SiteId, Backward]] = {}
        hit: dict[SiteId, set[ParameterKey]] = {}
        for (first, second), (step, keys) in _summed_pairs(training).items():
            earlier, later = training.backwards[first], training.backwards[second]
            moves = dict.fromkeys(later.climbed, step.site) | _moves(trace, training, earlier, later)
            if keys <= moves.keys():
                found.setdefault(later.site, (earlier, moves[next(iter(keys))], later))
                hit.setdefault(later.site, set()).update(keys)
        for site, (earlier, move, later) in found.items():
            parameters = trace.with_keys(hit[site])
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=later.site,
                parameters=parameters,
                related=[
                    context.related(self.RELATED_FIRST, earlier.site),
                    context.related(self.RELATED_MOVE, move),
                ],
                fix=Fix(self.FIX),
            )


def _summed_pairs(
    training: Training,
) -> dict[tuple[BackwardIndex, BackwardIndex], tuple[Step, set[ParameterKey]]]:
    """Return pairs of backward passes whose sum a step applies → the step, and the parameters."""
    pairs: dict[tuple[BackwardIndex, BackwardIndex], tuple[Step, set[ParameterKey]]] = {}
    for step in training.steps:
        for key, content in step.content.items():
            for first, second in itertools.pairwise(sorted(content.backwards)):
                if first in training.backwards[second].deposits.get(key, ()):
                    pairs.setdefault((first, second), (step, set()))[1].add(key)
    return pairs


def _moves(trace: Trace, training: Training, first: Backward, second: Backward) -> dict[ParameterKey, SiteId]:
    """Return parameter → site of the write between two passes that is made of its own gradient."""
    writes = [w for w in trace.events_of(ParameterWrite) if first.event < w.number < second.event]
    if not writes:
        return {}  # each pass of an accumulation asks
    bits = {key: ParameterIndex(bit) for bit, key in enumerate(dict.fromkeys(training.gradients.values()))}
    owners = {value: bits[key] for value, key in training.gradients.items()}
    made_of = propagate(trace.ops[first.op : second.op], trace.values, owners).data
    return {
        write.parameter: write.site
        for write in writes
        if write.parameter in bits and any(made_of.get(s, 0) >> bits[write.parameter] & 1 for s in write.sources)
    }
