"""GL604 bias-before-norm."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Rule, Severity
from gradlint.flow import computed_value
from gradlint.traces import ALL_CONVOLUTIONS

_BATCH_STATISTICS = {"batch_norm": ("training", False), "instance_norm": ("use_input_stats", True)}
"""Norm → name and default of its sixth argument, which is True if it normalizes by batch statistics."""


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

    MESSAGE = "the norm after this layer subtracts the bias with the mean: the gradient of {parameters} is zero."
    FIX = "Build the layer with bias=False; the norm's own bias replaces it."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        norms: dict[int, dict[int, int]] = {}
        """Parameter index → layer op → norm op that subtracts it."""
        for layer, norm in _layers_before_norms(context):
            bias = trace.ops[layer].tensor(2, "bias")
            if bias is not None and bias in trace.owners:
                norms.setdefault(trace.owners[bias], {})[layer] = norm

        def norm_location(parameter: Parameter) -> Location | None:
            return trace.location(trace.ops[min(norms[parameter.index].values())].site)

        def location(parameter: Parameter) -> Location | None:
            event = parameter.registered_by
            return trace.location(event.site) if event else norm_location(parameter)

        biases = [
            parameter
            for parameter in flow.by_index(flow.reached.intersection(norms))
            if norms[parameter.index].keys() >= set(flow.readers(parameter))
        ]
        for where, parameters in context.by_place(biases, location):
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=context.names(parameters)),
                at=where,
                parameters=parameters,
                related=[context.related("this norm subtracts the bias", norm_location(parameters[0]))],
                fix=Fix(self.FIX),
            )


def _layers_before_norms(context: Context) -> Iterator[tuple[int, int]]:
    """Yield the op indices of a layer and of the norm that subtracts its bias."""
    trace = context.trace
    for number in range(trace.forward_start, len(trace.ops)):
        norm = trace.ops[number]
        if norm.name not in _BATCH_STATISTICS or norm.argument(5, *_BATCH_STATISTICS[norm.name]) is not True:
            continue
        value, axis = computed_value(trace, norm.inputs[0], 1)
        layer = trace.made_by(value)
        if layer is None:
            continue
        dims = len(trace.values[value].shape)
        if layer.name == "linear":
            channels = dims - 1
        elif layer.name in ALL_CONVOLUTIONS:
            channels = 1 if dims == int(layer.name[-2]) + 2 else 0
        else:
            continue
        if axis == channels and context.flow.only_leads_to(value, number):
            yield trace.values[value].producer, number
