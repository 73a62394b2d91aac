"""GL415 live-score-factor."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Parameter, Rule, Severity, Trace
from gradlint.traces import (
    DETACHED_VALUES,
    DIVIDE,
    JOINS,
    LOG_PROBABILITIES,
    MULTIPLY,
    NEGATE,
    PROBABILITIES,
    REDUCTIONS,
    RESHAPES,
    SAME_VALUES,
    SUBTRACT,
    SUMS,
    OpIndex,
    ValueId,
    indices,
    union,
)

_SAMPLERS = frozenset(("multinomial", "normal", "bernoulli", "poisson", "binomial"))
_PICKS = frozenset(("gather", "__getitem__", "take_along_dim"))
_LOSSES = frozenset(("cross_entropy", "nll_loss", "binary_cross_entropy_with_logits"))
_LOGARITHMS = LOG_PROBABILITIES | {"log"}
_MOVES = (
    (RESHAPES | JOINS | SAME_VALUES | DETACHED_VALUES | _PICKS)
    | frozenset("transpose permute t T expand broadcast_tensors __setitem__ long int one_hot".split())
)  # fmt: skip
"""Ops that rearrange a sample, or store it."""
_KEEPS = (
    ((_MOVES - DETACHED_VALUES) | MULTIPLY | DIVIDE | SUMS | NEGATE | REDUCTIONS)
    | frozenset("pow exp log clamp clip where minimum".split())
)  # fmt: skip
"""Ops between a log-probability and the product."""
_PRODUCTS = MULTIPLY | frozenset("dot inner matmul __matmul__".split())


class LiveScoreFactor(Rule):
    """A policy gradient whose factor is not constant.

    ## What it does
    Finds products of the log-probability of a sample with a factor that carries gradient to other parameters, such as
    those of a critic. Another term of the loss trains these parameters too.

    ## Why it is bad
    The score-function estimator (REINFORCE, actor-critic) takes the reward or advantage as a number. Gradient through
    it moves the critic to make good actions look worse, against the term that trains it.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.ModuleDict({"actor": nn.Linear(4, 3), "critic": nn.Linear(4, 1)})
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, reward = torch.randn(6, 4), torch.randn(6)

        def step():
            policy = torch.distributions.Categorical(logits=model["actor"](x))
            action = policy.sample()
            advantage = reward - model["critic"](x).squeeze(-1)
            loss = -(policy.log_prob(action) * advantage).mean() + advantage.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.ModuleDict({"actor": nn.Linear(4, 3), "critic": nn.Linear(4, 1)})
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        x, reward = torch.randn(6, 4), torch.randn(6)

        def step():
            policy = torch.distributions.Categorical(logits=model["actor"](x))
            action = policy.sample()
            advantage = reward - model["critic"](x).squeeze(-1)
            loss = -(policy.log_prob(action) * advantage.detach()).mean() + advantage.pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    The sample must be drawn by `multinomial`, `normal`, `bernoulli` or the like, as `torch.distributions` does, from
    the network that scores it. Not reported if no other term of the loss trains the parameters behind the factor.

    ## References
    https://pytorch.org/docs/stable/distributions.html#score-function
    """

    code = "GL415"
    name = "live-score-factor"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE = (
        "the factor of this log-probability carries gradient: it moves {parameters}, which another term of the loss "
        "trains."
    )
    RELATED_SAMPLE = "the sample is drawn here"
    FIX = "Detach the factor: log_prob * advantage.detach()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        found: list[tuple[Op, Op, list[Parameter]]] = []
        numbers: list[OpIndex] = []
        for number in range(trace.forward_start, len(trace.ops)):
            op = trace.ops[number]
            if op.name not in _PRODUCTS or len(op.inputs) != 2 or not flow.on_path.intersection(op.outputs):
                continue
            for score, factor in (op.inputs, op.inputs[::-1]):
                behind, before = (flow.masks.live.get(value, 0) for value in (score, factor))
                others = before & ~behind
                sample = _scored_sample(context, score, behind) if others else None
                if sample is not None:
                    numbers.append(OpIndex(number))
                    found.append((op, sample, flow.by_index(indices(others))))
        # the clipped and the plain product of one line are one mistake
        for _, members in context.by_place(found, lambda entry: context.place(entry[0].site)):
            op, sample, _ = members[0]
            moved = {p.index for _, _, others in members for p in others}
            parameters = flow.by_index(moved & flow.trained_without(numbers))
            if not parameters:
                continue
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=op.site,
                parameters=parameters,
                related=[context.related(self.RELATED_SAMPLE, sample.site), *context.callers(op.site)],
                fix=Fix(self.FIX),
            )


def _scored_sample(context: Context, score: ValueId, behind: int) -> Op | None:
    """Return the op that drew the sample of a log-probability; None for other values.

    Only a sample that depends on one of the parameters in `behind` (a mask) counts.
    """
    trace, data = context.trace, context.flow.masks.data
    for op in _ops_before(trace, score, _KEEPS):
        if not trace.values[op.outputs[0]].requires_grad or not _scores(trace, op):
            continue
        for value in op.inputs:
            for drawn in _ops_before(trace, value, _MOVES):
                if drawn.name in _SAMPLERS and behind & union(data, drawn.inputs):
                    return drawn
    return None


def _scores(trace: Trace, op: Op) -> bool:
    """Return True if an op takes the log-probability of one operand by another.

    It picks logarithms, by an index or by a factor. Or it is a loss, subtracts a mean, or is the logarithm of picks.
    """
    if op.name == "log":
        made_by = {before.name for before in _ops_before(trace, op.inputs[0], _MOVES)}
        return not made_by.isdisjoint(PROBABILITIES)
    if op.name in _PICKS:
        return any(before.name in _LOGARITHMS | SUBTRACT for before in _ops_before(trace, op.inputs[0], _MOVES))
    if op.name in MULTIPLY:
        return any(before.name in _LOGARITHMS for value in op.inputs for before in _ops_before(trace, value, _MOVES))
    return op.name in _LOSSES or op.name in SUBTRACT


def _ops_before(trace: Trace, value: ValueId, passed: frozenset[str]) -> Iterator[Op]:
    """Yield the op that made a value, and those before it as long as each is one of some ops."""
    pending, seen = {value}, {value}
    while pending:
        ops = [op for op in map(trace.made_by, sorted(pending, reverse=True)) if op is not None]
        yield from ops
        pending = {v for op in ops if op.name in passed for v in op.inputs} - seen
        seen |= pending
