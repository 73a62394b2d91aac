"""GL610 swapped-loss-arguments."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceContext
from gradlint.rulekit import are_exchanged, find_producers, find_targeted_losses
from gradlint.source import exchanged_losses, in_grad_off
from gradlint.traces import BIASED_LAYERS, NORMS, ValueId

_SYMMETRIC = frozenset("mse_loss l1_loss smooth_l1_loss huber_loss".split())
"""Losses whose value and gradient stay the same when their arguments change places."""
_ONE_WAY = frozenset("cross_entropy cross_entropy_loss binary_cross_entropy_with_logits poisson_nll_loss".split())
"""Losses whose target, probabilities or counts, is never the raw result of a layer."""
_SCORES = BIASED_LAYERS | NORMS


class SwappedLossArguments(Rule):
    """A loss whose input and target are swapped.

    ## What it does
    Finds losses whose `target` is the raw result of a trained layer, while `input` depends on nothing that trains:
    `cross_entropy`, `binary_cross_entropy_with_logits` and `poisson_nll_loss`. Finds `kl_div` with probabilities as
    input and log-probabilities as target. For `mse_loss`, `l1_loss`, `smooth_l1_loss` and `huber_loss`, which are
    symmetric, any trained target is an info.

    ## Why it is bad
    These losses treat their arguments differently. The model gets a gradient, but of another function: labels are
    taken for logits, or logarithms are taken of labels, and training diverges or stalls.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        y = torch.eye(3).repeat(2, 1)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.cross_entropy(y, out)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        y = torch.eye(3).repeat(2, 1)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.cross_entropy(out, y)}
    ```

    ## Known limits
    A reverse divergence has the trained model as target on purpose. So a target of probabilities is not reported, and
    `kl_div` only if both arguments are of the wrong kind. Not reported if the input depends on trainable parameters
    too, even without gradient.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (input, then target)
    """

    code = "GL610"
    name = "swapped-loss-arguments"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    source_prefilter = ("softmax|Softmax", "kl_div|KLDivLoss")

    MESSAGE = (
        "the arguments of {loss} are swapped: its target depends on {parameters}, and its input on nothing that trains."
    )
    MESSAGE_KL = (
        "the arguments of kl_div are swapped for {parameters}: it gets probabilities as input and log-probabilities as "
        "target."
    )
    MESSAGE_SOURCE = (
        "the arguments of kl_div are swapped: it gets probabilities as input and log-probabilities as target."
    )
    FIX = "Pass the prediction first, then the target: {loss}(prediction, target)."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        for loss in exchanged_losses(context.module, "kl_div", "KLDivLoss"):
            if not in_grad_off(context.module, loss.call):
                yield context.finding(self, self.MESSAGE_SOURCE, loss.call, fix=Fix(self.FIX.format(loss="kl_div")))

    def check(self, context: Context) -> Iterator[Finding]:
        losses = find_targeted_losses(context, _SYMMETRIC | _ONE_WAY | {"kl_div"})
        swapped = [(loss[0], severity) for loss in losses if (severity := _severity(context, *loss)) is not None]
        for (site, name, severity), members in context.by_place(
            swapped, lambda pair: (pair[0].site, pair[0].name, pair[1])
        ):
            trained = context.flow.trained_by(v for op, _ in members for v in op.inputs)
            if trained:
                message = self.MESSAGE_KL if name == "kl_div" else self.MESSAGE
                yield context.finding(
                    self,
                    message.format(loss=name, parameters=context.names(trained)),
                    at=site,
                    parameters=trained,
                    related=context.callers(site),
                    severity=severity,
                    fix=Fix(self.FIX.format(loss=name)),
                )


def _severity(context: Context, loss: Op, given: ValueId, target: ValueId) -> Severity | None:
    """Return the severity of exchanged arguments; None if each may be in its place."""
    trace = context.trace
    producers = find_producers(trace, target)
    if loss.name == "kl_div":
        return Severity.ERROR if are_exchanged(loss, find_producers(trace, given), producers) else None
    if _may_train(context, given):
        return None
    if loss.name in _SYMMETRIC:
        return Severity.INFO
    is_raw = bool(producers) and all(op.name in _SCORES for op in producers)
    return Severity.ERROR if is_raw else None


def _may_train(context: Context, value: ValueId) -> bool:
    """Return True if a value depends on parameters that may train, with or without gradient."""
    mask = context.flow.masks.data.get(value, 0)
    return any(mask >> p.index & 1 and p.requires_grad for p in context.trace.parameters)
