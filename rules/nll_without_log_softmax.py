"""GL603 nll-without-log-softmax."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceContext
from gradlint.flow import computed_value
from gradlint.rulekit import find_loss_inputs
from gradlint.source import activated_losses
from gradlint.traces import ACTIVATIONS, BIASED_LAYERS, NORMS, SIGMOIDS

_LOSSES = ("nll_loss", "nll_loss2d", "nll_loss_nd")
_NO_LOG_PROBABILITIES = ACTIVATIONS | SIGMOIDS | BIASED_LAYERS | NORMS | {"softmax", "bilinear", "addmm"}


class NllWithoutLogSoftmax(Rule):
    """nll_loss on values that are not log-probabilities.

    ## What it does
    Finds `nll_loss` whose input comes from an op that provably gives no log-probabilities: a linear layer, a
    convolution, a norm, an activation, a softmax. Ops that only rearrange may stand between the two.

    ## Why it is bad
    nll_loss picks the entry of the right class and negates it. On logits the loss falls without bound, and the other
    classes are never pushed down. On probabilities the logarithm is missing.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.nll_loss(out, torch.arange(6) % 3)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.nll_loss(out.log_softmax(-1), torch.arange(6) % 3)}
    ```

    ## Known limits
    Not reported for producers that it does not know: arithmetic, custom ops, mixtures of log-probabilities.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html (input: log-probabilities of each class)
    """

    code = "GL603"
    name = "nll-without-log-softmax"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    source_prefilter = ("softmax|Softmax", "nll_loss|NLLLoss")

    MESSAGE = (
        "nll_loss expects log-probabilities, but gets the result of {producer}: the gradient of {parameters} is wrong."
    )
    MESSAGE_SOFTMAX = "nll_loss expects log-probabilities, but softmax gives probabilities: the gradient is wrong"
    RELATED_PRODUCER = "computed here, by {producer}"
    FIX = "Use cross_entropy on the logits, or apply log_softmax before nll_loss."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        for loss, softmax in activated_losses(context.module, "nll_loss", "NLLLoss", frozenset(("softmax",))):
            if softmax.dim in (None, 1, -1):
                related = context.related(self.RELATED_PRODUCER.format(producer="softmax"), softmax.call)
                message = f"{self.MESSAGE_SOFTMAX}."
                yield context.finding(self, message, loss.call, related=[related], fix=Fix(self.FIX))

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        pairs = [
            (trace.made_by(computed_value(trace, value)[0]), loss.site)
            for loss, value in find_loss_inputs(context, _LOSSES)
        ]
        wrong = [(op, site) for op, site in pairs if op is not None and op.name in _NO_LOG_PROBABILITIES]
        for (_, site), members in context.by_place(wrong, lambda pair: (pair[0].site, pair[1])):
            producer = members[0][0]
            trained = context.flow.trained_by(v for op, _ in members for v in op.inputs)
            message = self.MESSAGE_SOFTMAX + " for {parameters}." if producer.name == "softmax" else self.MESSAGE
            if trained:
                yield context.finding(
                    self,
                    message.format(producer=producer.name, parameters=context.names(trained)),
                    at=trace.location(site) or trace.location(producer.site),
                    parameters=trained,
                    related=[
                        context.related(self.RELATED_PRODUCER.format(producer=producer.name), producer.site),
                        *context.callers(site),
                    ],
                    fix=Fix(self.FIX),
                )
