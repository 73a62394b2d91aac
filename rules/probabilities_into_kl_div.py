"""GL607 probabilities-into-kl-div."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceContext, Trace
from gradlint.rulekit import are_exchanged, find_losses, find_producers
from gradlint.source import activated_losses, exchanged_losses, in_grad_off
from gradlint.traces import BIASED_LAYERS, LOG_PROBABILITIES, NORMS, PROBABILITIES

_SCORES = BIASED_LAYERS | NORMS


class ProbabilitiesIntoKlDiv(Rule):
    """Probabilities or logits where kl_div expects log-probabilities, or the other way round.

    ## What it does
    Finds `kl_div` (KLDivLoss) whose `input` is the result of a softmax, a sigmoid, a linear layer, a convolution or a
    norm. Finds a `target` that is the result of log_softmax, without `log_target=True`, or of softmax with it, or of
    such a layer. Ops that only rearrange may stand between, and a constant temperature after a layer.

    ## Why it is bad
    kl_div expects logarithms as `input` and probabilities as `target`. Given anything else it still returns a number,
    often a negative one, and its gradient does not lead to the target distribution.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        target = torch.randn(6, 3).softmax(1)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.kl_div(out.softmax(1), target, reduction="batchmean")}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        target = torch.randn(6, 3).softmax(1)
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.kl_div(out.log_softmax(1), target, reduction="batchmean")}
    ```

    ## Known limits
    Not reported for producers that it does not know: a logarithm of probabilities, mixtures, custom ops. In a source
    file alone, `input` must be the result of a softmax, directly, by a name, or from a network that ends in one.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.KLDivLoss.html (input: log-probabilities)
    """

    code = "GL607"
    name = "probabilities-into-kl-div"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    source_prefilter = ("softmax|Softmax", "kl_div|KLDivLoss")

    MESSAGE = (
        "kl_div expects log-probabilities as input, but gets the result of {producer}: the gradient of {parameters} is "
        "wrong."
    )
    MESSAGE_TARGET = (
        "kl_div with log_target={log_target} expects {expected} as target, but gets the result of {producer}: the "
        "gradient of {parameters} is wrong."
    )
    MESSAGE_SOURCE = (
        "kl_div expects log-probabilities as input, but softmax gives probabilities: the gradient is wrong."
    )
    RELATED_PRODUCER = "computed here, by {producer}"
    FIX = "Apply log_softmax to the logits and pass the result as input."
    FIX_LOG_TARGET = "Set log_target=True, or pass probabilities as target."
    FIX_NO_LOG_TARGET = "Leave log_target out, or pass log-probabilities as target."
    FIX_TARGET = "Apply softmax to the target's logits, or log_softmax with log_target=True."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        softmaxes = frozenset(("softmax",))
        swapped = {loss.call for loss in exchanged_losses(context.module, "kl_div", "KLDivLoss")}
        for loss, softmax in activated_losses(context.module, "kl_div", "KLDivLoss", softmaxes):
            if loss.call not in swapped and not in_grad_off(context.module, loss.call):
                related = context.related(self.RELATED_PRODUCER.format(producer="softmax"), softmax.call)
                yield context.finding(self, self.MESSAGE_SOURCE, loss.call, related=[related], fix=Fix(self.FIX))

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        wrong = [(op, given, target) for op in find_losses(context, ("kl_div",)) for given, target in _wrong(trace, op)]
        for (site, _), members in context.by_place(wrong, lambda found: (found[0].site, tuple(map(_name, found[1:])))):
            op, given, target = members[0]
            trained = context.flow.trained_by(v for loss, *_ in members for v in loss.inputs)
            if not trained:
                continue
            producer = given or target
            assert producer is not None
            log_target = op.argument(5, "log_target", False) is True
            message = self.MESSAGE if given is not None else self.MESSAGE_TARGET
            yield context.finding(
                self,
                message.format(
                    producer=producer.name,
                    log_target=log_target,
                    expected="log-probabilities" if log_target else "probabilities",
                    parameters=context.names(trained),
                ),
                at=trace.location(site) or trace.location(producer.site),
                parameters=trained,
                related=[
                    *(
                        context.related(self.RELATED_PRODUCER.format(producer=made.name), made.site)
                        for made in (given, target)
                        if made is not None
                    ),
                    *context.callers(site),
                ],
                fix=Fix(" ".join(self._fixes(given, target, log_target))),
            )

    def _fixes(self, given: Op | None, target: Op | None, log_target: bool) -> Iterator[str]:
        """Yield what is to do about the input and about the target."""
        if given is not None:
            yield self.FIX
        if target is not None and target.name in _SCORES:
            yield self.FIX_TARGET
        elif target is not None:
            yield self.FIX_NO_LOG_TARGET if log_target else self.FIX_LOG_TARGET


def _wrong(trace: Trace, loss: Op) -> Iterator[tuple[Op | None, Op | None]]:
    """Yield what computed a wrong input and a wrong target, None for a right one.

    Arguments that are exchanged are no mistake of this kind.
    """
    log_target = loss.argument(5, "log_target", False) is True
    given, target = (find_producers(trace, loss.tensor(i, name)) for i, name in enumerate(("input", "target")))
    wrong_target = (PROBABILITIES if log_target else LOG_PROBABILITIES) | _SCORES
    wrong = [
        producers[0] if producers and all(op.name in names for op in producers) else None
        for producers, names in ((given, PROBABILITIES | _SCORES), (target, wrong_target))
    ]
    if any(wrong) and not are_exchanged(loss, given, target):
        yield wrong[0], wrong[1]


def _name(op: Op | None) -> str:
    return op.name if op is not None else ""
