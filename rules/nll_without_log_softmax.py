"""GL603 nll-without-log-softmax."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Rule, Severity, SourceModule, activated_losses, origin

_LOSSES = ("nll_loss", "nll_loss2d", "nll_loss_nd")
_ACTIVATIONS = (
    "relu relu_ relu6 leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish hardtanh hardswish softplus "
    "tanh tanh_ sigmoid sigmoid_ softmax"
).split()
_SCORES = (
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d addmm "
    "batch_norm layer_norm group_norm instance_norm"
).split()

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
        trace, flow = context.trace, context.flow
        fed: dict[tuple[int, int], list[int]] = {}
        for op in trace.ops[trace.forward_start :]:
            given = op.tensor(0, "input")
            if op.name not in _LOSSES or given is None or not flow.on_path.intersection(op.outputs):
                continue
            source = trace.values[origin(trace, given)[0]].producer
            if source >= 0 and _no_log_probability(trace.ops[source]):
                fed.setdefault((trace.ops[source].site, op.site), []).append(source)
        for (_, loss), sources in fed.items():
            trained = flow.trained_by(v for n in sources for v in trace.ops[n].inputs)
            if not trained:
                continue
            producer = trace.ops[sources[0]]
            yield context.finding(
                self,
                f"nll_loss wants log-probabilities and is given what {producer.name} computed: {_effect(producer)} "
                f"{context.names(trained)}.",
                at=trace.location(loss) or trace.location(producer.site),
                parameters=trained,
                related=[
                    context.related(f"computed here, by {producer.name}", producer.site),
                    *context.callers(loss),
                ],
                fix=_FIX,
            )


def _no_log_probability(op: Op) -> bool:
    return op.name in _SCORES or op.name in _ACTIVATIONS


def _effect(op: Op) -> str:
    if op.name == "softmax":
        return "without the logarithm the gradient is wrong for"
    return "nothing is normalised and the loss has no lower bound, which misleads"
