"""GL601 softmax-before-cross-entropy."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceContext, Trace
from gradlint.flow import computed_values
from gradlint.rulekit import activated_finding, find_loss_inputs, softmax_dim
from gradlint.source import Activation, activated_losses
from gradlint.traces import OpIndex, SiteId, ValueId

_LOSSES = ("cross_entropy", "cross_entropy_loss")
_SOFTMAXES = frozenset(("softmax", "log_softmax"))


class SoftmaxBeforeCrossEntropy(Rule):
    """Probabilities where cross_entropy expects logits.

    ## What it does
    Finds a softmax along the class dimension whose result reaches `cross_entropy` through ops that only rearrange it:
    view, permute, squeeze, slices, inactive dropout. A log_softmax there is harmless, and reported as info.

    ## Why it is bad
    cross_entropy applies log_softmax itself. On probabilities, which lie between 0 and 1, the loss cannot approach
    zero. Its gradient is a small fraction of the right one: training crawls and stalls.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x).softmax(dim=-1)

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.cross_entropy(out, torch.arange(6) % 3)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(x)

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.cross_entropy(out, torch.arange(6) % 3)}
    ```

    ## Known limits
    If anything is computed between the two, it is a warning at the loss, by the values: in all calls, all rows must be
    positive, differ and sum to 1. Not reported if the softmax runs along another dimension, or the loss is written out
    by hand. In a source file alone, the loss must get the softmax directly, by a name, or from a network that ends in
    one.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (input: unnormalized logits)
    """

    code = "GL601"
    name = "softmax-before-cross-entropy"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    source_prefilter = ("softmax|Softmax", "cross_entropy|CrossEntropyLoss")

    MESSAGE = "cross_entropy applies log_softmax itself: on probabilities its gradient shrinks for {parameters}."
    MESSAGE_VALUES = (
        "each row of cross_entropy's input is positive and sums to 1: on probabilities its gradient shrinks for "
        "{parameters}."
    )
    MESSAGE_LOG = "cross_entropy applies log_softmax itself: a second one changes nothing for {parameters}."
    MESSAGE_SOURCE = "cross_entropy applies log_softmax itself: on probabilities its gradient shrinks."
    MESSAGE_SOURCE_LOG = "cross_entropy applies log_softmax itself: a second one changes nothing."
    RELATED_LOSS = "passed to cross_entropy here"
    FIX = (
        "Pass the logits to cross_entropy, and apply {softmax} only where probabilities are needed, at inference. Or "
        "keep log_softmax and use nll_loss."
    )
    FIX_VALUES = "Pass logits to cross_entropy, or pass the logarithm of the probabilities to nll_loss."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        losses: dict[ast.expr, tuple[ast.Call, Activation]] = {}
        for loss, softmax in activated_losses(context.module, "cross_entropy", "CrossEntropyLoss", _SOFTMAXES):
            if softmax.dim in (None, 1, -1):
                losses.setdefault(softmax.call, (loss.call, softmax))
        for loss_call, softmax in losses.values():
            is_log = softmax.name == "log_softmax"
            yield context.finding(
                self,
                self.MESSAGE_SOURCE_LOG if is_log else self.MESSAGE_SOURCE,
                softmax.call,
                related=[context.related(self.RELATED_LOSS, loss_call)],
                severity=Severity.INFO if is_log else None,
                fix=Fix(self.FIX.format(softmax=softmax.name)),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        pairs: list[tuple[Op, Op]] = []
        for loss, value in find_loss_inputs(context, _LOSSES):
            class_dim = 1 if len(trace.values[value].shape) > 1 else 0
            sources = computed_values(trace, value, class_dim)
            softmaxes = [op for source, dim in sources if (op := _softmax(trace, source, dim)) is not None]
            if len(softmaxes) == len(sources):
                pairs += ((softmax, loss) for softmax in softmaxes)
        for (_, name), members in context.by_place(
            pairs, lambda pair: (trace.location(pair[0].site) or pair[0].site, pair[0].name)
        ):
            softmaxes, loss = [op for op, _ in members], members[0][1]
            is_log = name == "log_softmax"
            message = self.MESSAGE_LOG if is_log else self.MESSAGE
            fix = self.FIX.format(softmax=name)
            yield from activated_finding(self, context, softmaxes, loss, message, fix, demoted=is_log)
        yield from self._by_values(context, {loss.site for _, loss in pairs})

    def _by_values(self, context: Context, reported: set[SiteId]) -> Iterator[Finding]:
        """Yield the losses whose input holds probabilities in every call, by the values."""
        trace = context.trace
        calls = [
            (OpIndex(number), op)
            for number, op in enumerate(trace.ops[trace.forward_start :], trace.forward_start)
            if op.name in _LOSSES and op.site not in reported and context.flow.on_path.intersection(op.outputs)
        ]
        for site, members in context.by_place(calls, lambda call: call[1].site) if trace.on_probabilities else ():
            trained = context.flow.trained_by(v for _, op in members for v in op.inputs[:1])
            if trained and all(number in trace.on_probabilities for number, _ in members):
                yield context.finding(
                    self,
                    self.MESSAGE_VALUES.format(parameters=context.names(trained)),
                    at=site,
                    parameters=trained,
                    related=context.callers(site),
                    severity=Severity.WARNING,
                    fix=Fix(self.FIX_VALUES),
                )


def _softmax(trace: Trace, value: ValueId, dim: int | None) -> Op | None:
    """Return the softmax along a dimension that gave a value, or None."""
    op = trace.made_by(value)
    if op is None or op.name not in _SOFTMAXES:
        return None
    return op if softmax_dim(trace, op) == dim else None
