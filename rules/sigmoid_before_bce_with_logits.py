"""GL602 sigmoid-before-bce-with-logits."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceContext
from gradlint.flow import computed_values
from gradlint.rulekit import activated_finding, find_loss_inputs
from gradlint.source import activated_losses
from gradlint.traces import SIGMOIDS

_LOSS = "binary_cross_entropy_with_logits"


class SigmoidBeforeBceWithLogits(Rule):
    """Probabilities where binary_cross_entropy_with_logits expects logits.

    ## What it does
    Finds a sigmoid whose result reaches `binary_cross_entropy_with_logits` (BCEWithLogitsLoss) through ops that only
    rearrange it.

    ## Why it is bad
    The loss applies the sigmoid itself. A second sigmoid maps probabilities to between 0.5 and 0.73: no input is ever
    called negative, the loss cannot fall below a floor, and the gradient shrinks.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        criterion = nn.BCEWithLogitsLoss()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: criterion(torch.sigmoid(out), torch.ones(6))}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))
        criterion = nn.BCEWithLogitsLoss()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: criterion(out, torch.ones(6))}
    ```

    ## Known limits
    Not reported if anything is computed between the two, or the loss is written out by hand. In a source file alone,
    the loss must get the sigmoid directly, by a name, or from a network that ends in one.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """

    code = "GL602"
    name = "sigmoid-before-bce-with-logits"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    source_prefilter = ("sigmoid|Sigmoid", "binary_cross_entropy_with_logits|BCEWithLogitsLoss")

    MESSAGE = "{loss} applies the sigmoid itself: on probabilities its gradient shrinks for {parameters}."
    MESSAGE_SOURCE = "{loss} applies the sigmoid itself: on probabilities its gradient shrinks."
    RELATED_LOSS = "passed to the loss here"
    FIX = "Pass the logits to the loss, and apply torch.sigmoid() only where probabilities are needed."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        losses: dict[ast.expr, ast.Call] = {}
        for loss, sigmoid in activated_losses(context.module, _LOSS, "BCEWithLogitsLoss", frozenset(("sigmoid",))):
            losses.setdefault(sigmoid.call, loss.call)
        for sigmoid_call, loss_call in losses.items():
            related = context.related(self.RELATED_LOSS, loss_call)
            message = self.MESSAGE_SOURCE.format(loss=_LOSS)
            yield context.finding(self, message, sigmoid_call, related=[related], fix=Fix(self.FIX))

    def check(self, context: Context) -> Iterator[Finding]:
        pairs: list[tuple[Op, Op]] = []
        for loss, value in find_loss_inputs(context, (_LOSS,)):
            sources = [context.trace.made_by(source) for source, _ in computed_values(context.trace, value)]
            sigmoids = [op for op in sources if op is not None and op.name in SIGMOIDS]
            if len(sigmoids) == len(sources):
                pairs += ((sigmoid, loss) for sigmoid in sigmoids)
        for _, members in context.by_place(pairs, lambda pair: context.trace.location(pair[0].site) or pair[0].site):
            sigmoids, loss = [op for op, _ in members], members[0][1]
            yield from activated_finding(self, context, sigmoids, loss, self.MESSAGE, self.FIX)
