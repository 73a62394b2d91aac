"""GL604 bias-before-norm."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Op, Parameter, Rule, Severity, origin

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


class BiasBeforeNorm(Rule):
    """A bias that the norm behind it takes out again.

    ## What it does
    Finds the bias of a linear layer or convolution whose result goes straight into batch or instance norm that
    normalises by the statistics of the batch, and nowhere else.

    ## Why it is bad
    The norm subtracts the mean, and the bias with it: its gradient is exactly zero, and parameter, gradient and
    optimizer state are carried along for nothing.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        return {"model": model, "inputs": (torch.randn(2, 3, 8, 8),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
        )
        return {"model": model, "inputs": (torch.randn(2, 3, 8, 8),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Silent where the result is also used elsewhere, where the norm runs in eval mode, and where padding, an activation
    or arithmetic stands between.

    ## References
    https://arxiv.org/abs/1502.03167 (section 3.2: the bias can be ignored)
    """

    code = "GL604"
    name = "bias-before-norm"
    severity = Severity.INFO
    needs = frozenset({"forward", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        found: dict[Location | None, list[Parameter]] = {}
        norms: dict[int, int] = {}
        taken: dict[int, int] = {}
        for number in range(trace.forward_start, len(trace.ops)):
            layer = self._layer_before(context, number)
            if layer is not None:
                taken[layer] = number
        for parameter in trace.parameters:
            readers = flow.readers(parameter) if parameter.index in flow.reached else []
            if not readers or not all(n in taken and _is_bias(context, trace.ops[n], parameter) for n in readers):
                continue
            event = parameter.registered_by
            found.setdefault(trace.location(event.site) if event else None, []).append(parameter)
            norms[parameter.index] = trace.ops[taken[readers[0]]].site
        for where, parameters in found.items():
            yield context.finding(
                self,
                "the norm behind it subtracts the mean, and so the bias: gradient is zero for "
                f"{context.names(parameters)}.",
                at=where or norms[parameters[0].index],
                parameters=parameters,
                related=[context.related("normalised here", norms[p.index]) for p in parameters[:1]],
                fix=Fix("Build the layer with bias=False; the norm's own bias does its work."),
            )

    def _layer_before(self, context: Context, number: int) -> int | None:
        """The number of the layer whose per-channel bias a norm takes out; None if the op is no such norm."""
        trace, flow = context.trace, context.flow
        norm = trace.ops[number]
        given = norm.tensor(0, "input") if norm.name in ("batch_norm", "instance_norm") else None
        flag = "training" if norm.name == "batch_norm" else "use_input_stats"
        if given is None or norm.argument(5, flag, norm.name == "instance_norm") is not True:
            return None
        value, axis = origin(trace, given, 1)
        producer = trace.values[value].producer
        if producer < trace.forward_start or axis is None:
            return None
        layer = trace.ops[producer]
        dims = len(trace.values[value].shape)
        if layer.name == "linear":
            channels = dims - 1
        elif layer.name in _CONVOLUTIONS:
            channels = 1 if dims == int(layer.name[-2]) + 2 else 0
        else:
            return None
        only_there = flow.only_leads_to(value, number)
        return producer if axis == channels and only_there else None


def _is_bias(context: Context, op: Op, parameter: Parameter) -> bool:
    value = op.tensor(2, "bias")
    return value is not None and context.trace.owners.get(value) == parameter.index
