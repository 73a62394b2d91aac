"""GL309 optimizer-made-every-step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, Step
from gradlint.rulekit import is_repeated
from gradlint.traces import OptimizerMade, ParameterKey, ParameterWrite, SiteId

_ROUNDS = 3
"""Number of optimizers in a row, each stepped once, that show a habit."""
_KEEPS_ON_TRACK = frozenset(
    "clamp_ clamp_min_ clamp_max_ clip_ renorm_ _foreach_clamp_min_ _foreach_clamp_max_".split()
)
"""Writes that keep a parameter where the steps have led it."""


class _Round(NamedTuple):
    """The making of an optimizer, and its only step."""

    made: OptimizerMade
    step: Step


class OptimizerMadeEveryStep(Rule):
    """An optimizer with state that is created anew for every step.

    ## What it does
    Finds three or more optimizers in a row that the same call creates for the same parameters. Each of them takes one
    step, in which its state (momentum, averages of gradients) begins, and none takes a second one.

    ## Why it is bad
    The state is lost after each step, so momentum never builds up. The first step of Adam moves every entry by the
    learning rate, whatever the size of its gradient: training becomes sign descent.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "step": step}
    ```

    ## Known limits
    Nothing is reported if code writes to the parameters between the steps, as a loop that rewinds them does (MAML, a
    search for hyperparameters). Neither is an optimizer whose step stands in a loop of its own, even if that loop ran
    only once. Optimizers without state are no mistake: SGD without momentum forgets nothing.

    ## References
    https://pytorch.org/docs/stable/optim.html#constructing-it
    """

    code = "GL309"
    name = "optimizer-made-every-step"
    severity = Severity.ERROR
    needs = frozenset({"step"})

    MESSAGE = (
        "{type}() creates a new optimizer for every step: its state (momentum, averages of gradients) is lost after "
        "each step of {parameters}."
    )
    RELATED = "the only step of each of them"
    FIX = "Create the optimizer once, before the first step, and keep it, for example as self.optimizer."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        found: list[tuple[SiteId, list[_Round], Parameter]] = []
        for rounds in _habits(context):
            made, step = rounds[0]
            is_rewound = not step.content.keys().isdisjoint(_written_between(context, rounds))
            if not is_rewound and not is_repeated(trace, step.site, made.site):
                found += ((made.site, rounds, parameter) for parameter in trace.with_keys(step.content))
        for site, members in context.by_place(found, lambda member: member[0]):
            first = members[0][1][0]
            parameters = [parameter for _, _, parameter in members]
            yield context.finding(
                self,
                self.MESSAGE.format(type=first.made.type_name, parameters=context.names(parameters)),
                at=site,
                parameters=parameters,
                related=[context.related(self.RELATED, first.step.site), *context.callers(site)],
                fix=Fix(self.FIX),
            )


def _habits(context: Context) -> Iterator[list[_Round]]:
    """Yield the optimizers that one call makes in turn, each for one step of the same."""
    steps: dict[int, list[Step]] = {}
    for step in context.training.steps:
        for key in step.optimizers:
            steps.setdefault(key, []).append(step)
    rounds = [
        _Round(made, steps[made.optimizer][0])
        for made in context.trace.events_of(OptimizerMade)
        if len(steps.get(made.optimizer, ())) == 1 and made.optimizer in steps[made.optimizer][0].starts_state_of
    ]
    for _, members in context.by_place(rounds, lambda r: (r.made.site, frozenset(r.step.content))):
        takes_turns = all(a.step.event < b.made.number for a, b in itertools.pairwise(members))
        if len(members) >= _ROUNDS and takes_turns:
            yield members


def _written_between(context: Context, rounds: list[_Round]) -> set[ParameterKey]:
    """Return the parameters that code gives another value between the steps: it may rewind them."""
    begin, end = rounds[0].step.event, rounds[-1].step.event
    return {
        write.parameter
        for write in context.trace.events_of(ParameterWrite)
        if begin < write.number < end and write.op_name not in _KEEPS_ON_TRACK
    }
