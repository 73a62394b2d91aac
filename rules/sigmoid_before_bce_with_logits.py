"""GL602 sigmoid-before-bce-with-logits."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import (
    Context,
    Finding,
    Fix,
    Op,
    Rule,
    Severity,
    SourceModule,
    activated_finding,
    activated_losses,
    fed_losses,
    origins,
)

_LOSS = "binary_cross_entropy_with_logits"
_SIGMOIDS = ("sigmoid", "sigmoid_", "expit")

_FIX = Fix("Give the loss the logits and leave the sigmoid out; apply it where probabilities are needed.")


class SigmoidBeforeBceWithLogits(Rule):
    """Probabilities where binary_cross_entropy_with_logits wants logits.

    ## What it does
    Finds a sigmoid whose result reaches `binary_cross_entropy_with_logits` (BCEWithLogitsLoss) through ops that only
    rearrange it.

    ## Why it is bad
    The loss applies the sigmoid itself. Its second sigmoid maps probabilities to between 0.5 and 0.73: no input is ever
    called negative, the loss cannot fall below a floor, and the gradient is squashed.

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
    Silent where anything is computed between the two, and where the loss was written out by hand. In a source file
    alone, where the loss is given the sigmoid directly, under a name, or by a network of the file that ends in one.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.BCEWithLogitsLoss.html
    """

    code = "GL602"
    name = "sigmoid-before-bce-with-logits"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    marks = ("sigmoid|Sigmoid", "binary_cross_entropy_with_logits|BCEWithLogitsLoss")

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        seen = set()
        for loss, sigmoid in activated_losses(module, _LOSS, "BCEWithLogitsLoss", frozenset(("sigmoid",))):
            if sigmoid.call in seen:
                continue
            seen.add(sigmoid.call)
            yield module.finding(
                self,
                f"{_LOSS} applies the sigmoid itself: on probabilities its gradient is squashed.",
                sigmoid.call,
                related=[module.related("the loss is given it here", loss.call)],
                fix=_FIX,
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        fed: dict[int, tuple[list[Op], Op]] = {}
        for loss, given in fed_losses(context, (_LOSS,)):
            sources = origins(trace, given)
            calls = [op for value, _ in sources if (op := trace.made_by(value)) and op.name in _SIGMOIDS]
            if len(calls) == len(sources):
                for sigmoid in calls:
                    fed.setdefault(sigmoid.site, ([], loss))[0].append(sigmoid)
        for calls, loss in fed.values():
            yield from activated_finding(
                self,
                context,
                calls,
                loss,
                lambda names: (
                    f"{_LOSS} applies the sigmoid itself: on probabilities its gradient is squashed for {names}."
                ),
                _FIX,
            )
