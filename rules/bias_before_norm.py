"""GL604 bias-before-norm."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Rule, Severity, origin

_BATCH_STATISTICS = {"batch_norm": ("training", False), "instance_norm": ("use_input_stats", True)}
"""Norms whose sixth argument says whether they normalise by the batch: its name and what it is by default."""
_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d")


class BiasBeforeNorm(Rule):
    """A bias that the norm after it subtracts again.

    ## What it does
    Finds the bias of a linear layer or convolution whose result goes directly, and only, into batch or instance norm.
    The norm must normalize by the statistics of the batch.

    ## Why it is bad
    The norm subtracts the mean and with it the bias, so the gradient of the bias is exactly zero. The parameter, its
    gradient and its optimizer state cost memory for nothing.

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
    Not reported if the result is also used elsewhere, if the norm runs in eval mode, or if padding, an activation or
    arithmetic stands between.

    ## References
    https://arxiv.org/abs/1502.03167 (section 3.2: the bias can be ignored)
    """

    code = "GL604"
    name = "bias-before-norm"
    severity = Severity.INFO
    needs = frozenset({"forward", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        taken: dict[int, dict[int, int]] = {}
        for layer, norm in _layers_before_norms(context):
            bias = trace.ops[layer].tensor(2, "bias")
            if bias in trace.owners:
                taken.setdefault(trace.owners[bias], {})[layer] = norm
        found: dict[Location | None, list[Parameter]] = {}
        norms: dict[int, Location | None] = {}
        for parameter in flow.by_index(flow.reached.intersection(taken)):
            layers = taken[parameter.index]
            if layers.keys() >= set(flow.readers(parameter)):
                normalised = trace.location(trace.ops[min(layers.values())].site)
                made = parameter.registered_by
                found.setdefault(trace.location(made.site) if made else normalised, []).append(parameter)
                norms[parameter.index] = normalised
        for where, parameters in found.items():
            yield context.finding(
                self,
                "the norm behind it subtracts the mean, and so the bias: gradient is zero for "
                f"{context.names(parameters)}.",
                at=where,
                parameters=parameters,
                related=[context.related("normalised here", norms[parameters[0].index])],
                fix=Fix("Build the layer with bias=False; the norm's own bias does its work."),
            )


def _layers_before_norms(context: Context) -> Iterator[tuple[int, int]]:
    """(layer, norm) by their numbers, where a norm takes out the bias that a layer adds to each channel."""
    trace = context.trace
    for number in range(trace.forward_start, len(trace.ops)):
        norm = trace.ops[number]
        if norm.name not in _BATCH_STATISTICS or norm.argument(5, *_BATCH_STATISTICS[norm.name]) is not True:
            continue
        value, axis = origin(trace, norm.inputs[0], 1)
        layer = trace.made_by(value)
        if layer is None:
            continue
        dims = len(trace.values[value].shape)
        if layer.name == "linear":
            channels = dims - 1
        elif layer.name in _CONVOLUTIONS:
            channels = 1 if dims == int(layer.name[-2]) + 2 else 0
        else:
            continue
        if axis == channels and context.flow.only_leads_to(value, number):
            yield trace.values[value].producer, number
