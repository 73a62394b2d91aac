"""GL601 softmax-before-cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Parameter, Rule, Severity, SourceModule, activated_losses, origins

_LOSSES = ("cross_entropy", "cross_entropy_loss")
_SOFTMAX = ("softmax", "log_softmax")


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
        trace, flow = context.trace, context.flow
        fed: dict[tuple[int, bool], tuple[list[int], Op]] = {}
        for op in trace.ops[trace.forward_start :]:
            given = op.tensor(0, "input")
            if op.name not in _LOSSES or given is None or not flow.on_path.intersection(op.outputs):
                continue
            classes = 1 if len(trace.values[given].shape) > 1 else 0
            sources = origins(trace, given, classes)
            if not all(_is_softmax(context, value, axis) for value, axis in sources):
                continue
            for value, _ in sources:
                producer = trace.values[value].producer
                softmax = trace.ops[producer]
                fed.setdefault((softmax.site, softmax.name == "log_softmax"), ([], op))[0].append(producer)
        for (_, harmless), (producers, loss) in fed.items():
            trained = flow.trained_by(v for n in producers for v in trace.ops[n].inputs)
            if trained:
                yield self._finding(context, trace.ops[producers[0]], loss, trained, harmless)

    def _finding(self, context: Context, softmax: Op, loss: Op, trained: list[Parameter], harmless: bool) -> Finding:
        trace = context.trace
        what = (
            "cross_entropy applies log_softmax itself; doing it twice changes nothing, upstream are"
            if harmless
            else "cross_entropy applies log_softmax itself: on probabilities its gradient is squashed for"
        )
        module = trace.module_of(softmax)
        layer = module if module is not None and module.type.__module__.startswith("torch.nn") else None
        made = trace.location(layer.registered_at) if layer else None
        return context.finding(
            self,
            f"{what} {context.names(trained)}.",
            at=trace.location(softmax.site) or made or trace.location(loss.site),
            parameters=trained,
            related=[
                context.related("cross_entropy is given it here", loss.site),
                context.related(f"the {layer.type.__name__ if layer else ''} was put into the model here", made),
                *context.callers(softmax.site),
            ],
            fix=_fix(softmax.name),
            severity=Severity.INFO if harmless else None,
        )


def _is_softmax(context: Context, value: int, axis: int | None) -> bool:
    """Whether a value is what a softmax along an axis of it gave."""
    trace = context.trace
    producer = trace.values[value].producer
    return axis is not None and producer >= 0 and _along(trace.ops[producer], len(trace.values[value].shape), axis)


def _fix(name: str) -> Fix:
    return Fix(
        f"Give cross_entropy the logits and leave the {name} out; apply it where probabilities are needed, at "
        "inference. Or keep log_softmax and use nll_loss."
    )


def _along(op: Op, dims: int, axis: int) -> bool:
    """Whether an op is a softmax along an axis of its result."""
    if op.name not in _SOFTMAX:
        return False
    dim = op.argument(1, "dim")
    if dim is None:
        dim = 0 if dims in (0, 1, 3) else 1  # torch's own, deprecated choice
    return type(dim) is int and dim % max(dims, 1) == axis
