"""GL603 nll-without-log-softmax."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceModule, activated_losses, fed_losses, origin

_LOSSES = ("nll_loss", "nll_loss2d", "nll_loss_nd")
_NO_LOG_PROBABILITIES = frozenset(
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish hardtanh hardswish softplus "
    "tanh tanh_ sigmoid sigmoid_ softmax "
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm "
    "batch_norm layer_norm group_norm instance_norm".split()
)

_FIX = Fix("Use cross_entropy on the logits, or put log_softmax before nll_loss.")


class NllWithoutLogSoftmax(Rule):
    """nll_loss on what are no log-probabilities.

    ## What it does
    Finds `nll_loss` fed, through ops that only rearrange, by an op whose result is provably no log-probability: a
    linear layer, a convolution, a norm, an activation, a softmax.

    ## Why it is bad
    nll_loss only picks out the entry of the right class and negates it. On logits the loss falls without bound while
    the other classes are never pushed down; on probabilities the logarithm is missing.

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
    Silent on producers it does not know: arithmetic, custom ops, mixtures of log-probabilities.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.NLLLoss.html (input: log-probabilities of each class)
    """

    code = "GL603"
    name = "nll-without-log-softmax"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})
    marks = ("softmax|Softmax", "nll_loss|NLLLoss")

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for loss, softmax in activated_losses(module, "nll_loss", "NLLLoss", frozenset(("softmax",))):
            if softmax.dim in (None, 1, -1):
                yield module.finding(
                    self,
                    "nll_loss wants log-probabilities and is given what softmax computed: without the logarithm the "
                    "gradient is wrong.",
                    loss.call,
                    related=[module.related("computed here, by softmax", softmax.call)],
                    fix=_FIX,
                )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        fed: dict[tuple[int, int], list[Op]] = {}
        for loss, given in fed_losses(context, _LOSSES):
            producer = trace.made_by(origin(trace, given)[0])
            if producer is not None and producer.name in _NO_LOG_PROBABILITIES:
                fed.setdefault((producer.site, loss.site), []).append(producer)
        for (_, loss_site), producers in fed.items():
            trained = context.flow.trained_by(v for producer in producers for v in producer.inputs)
            if not trained:
                continue
            producer = producers[0]
            yield context.finding(
                self,
                f"nll_loss wants log-probabilities and is given what {producer.name} computed: {_effect(producer)} "
                f"{context.names(trained)}.",
                at=trace.location(loss_site) or trace.location(producer.site),
                parameters=trained,
                related=[
                    context.related(f"computed here, by {producer.name}", producer.site),
                    *context.callers(loss_site),
                ],
                fix=_FIX,
            )


def _effect(op: Op) -> str:
    if op.name == "softmax":
        return "without the logarithm the gradient is wrong for"
    return "nothing is normalised and the loss has no lower bound, which misleads"
