"""GL601 softmax-before-cross-entropy."""

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
    Trace,
    activated_finding,
    activated_losses,
    fed_losses,
    origins,
)

_LOSSES = ("cross_entropy", "cross_entropy_loss")
_SOFTMAX = ("softmax", "log_softmax")
_EFFECTS = {
    True: "cross_entropy applies log_softmax itself; doing it twice changes nothing, upstream are",
    False: "cross_entropy applies log_softmax itself: on probabilities its gradient is squashed for",
}
"""By whether it is harmless."""


class SoftmaxBeforeCrossEntropy(Rule):
    """Probabilities where cross_entropy wants logits.

    ## What it does
    Finds a softmax along the class dimension whose result reaches `cross_entropy` through ops that only rearrange it
    (view, permute, squeeze, slices, dropout that is off). A log_softmax there is harmless and weighs info.

    ## Why it is bad
    cross_entropy applies log_softmax itself. On probabilities, which lie between 0 and 1, it cannot come near zero, and
    its gradient is a small fraction of the right one: training crawls and stalls.

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
    Silent where anything is computed between the two (a temperature, a clamp), where the softmax runs along another
    dimension, and where the loss was written out by hand. In a source file alone, where the loss is given the softmax
    directly, under a name, or by a network of the same file that ends in one.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.CrossEntropyLoss.html (input: unnormalized logits)
    """

    code = "GL601"
    name = "softmax-before-cross-entropy"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    marks = ("softmax|Softmax", "cross_entropy|CrossEntropyLoss")

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        seen = set()
        for loss, softmax in activated_losses(module, "cross_entropy", "CrossEntropyLoss", frozenset(_SOFTMAX)):
            if softmax.dim not in (None, 1, -1) or softmax.call in seen:
                continue
            seen.add(softmax.call)
            harmless = softmax.name == "log_softmax"
            yield module.finding(
                self,
                "cross_entropy applies log_softmax itself; doing it twice changes nothing."
                if harmless
                else "cross_entropy applies log_softmax itself: on probabilities its gradient is squashed.",
                softmax.call,
                related=[module.related("cross_entropy is given it here", loss.call)],
                severity=Severity.INFO if harmless else None,
                fix=_fix(softmax.name),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        fed: dict[tuple[int, bool], tuple[list[Op], Op]] = {}
        for loss, given in fed_losses(context, _LOSSES):
            classes = 1 if len(trace.values[given].shape) > 1 else 0
            sources = origins(trace, given, classes)
            calls = [op for value, axis in sources if (op := _softmax(trace, value, axis)) is not None]
            if len(calls) == len(sources):
                for softmax in calls:
                    fed.setdefault((softmax.site, softmax.name == "log_softmax"), ([], loss))[0].append(softmax)
        for (_, harmless), (calls, loss) in fed.items():
            yield from activated_finding(
                self,
                context,
                calls,
                loss,
                lambda names, harmless=harmless: f"{_EFFECTS[harmless]} {names}.",
                _fix(calls[0].name),
                Severity.INFO if harmless else None,
            )


def _softmax(trace: Trace, value: int, axis: int | None) -> Op | None:
    """The softmax along an axis of a value that gave it; None where it was none."""
    op = trace.made_by(value)
    if op is None or op.name not in _SOFTMAX:
        return None
    dims = len(trace.values[value].shape)
    dim = op.argument(1, "dim")
    if dim is None:
        dim = 0 if dims in (0, 1, 3) else 1  # torch's own, deprecated choice
    return op if dim % max(dims, 1) == axis else None


def _fix(name: str) -> Fix:
    return Fix(
        f"Give cross_entropy the logits and leave the {name} out; apply it where probabilities are needed, at "
        "inference. Or keep log_softmax and use nll_loss."
    )
