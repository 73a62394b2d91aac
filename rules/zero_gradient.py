"""GL605 zero-gradient."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from gradlint import Context, Finding, Fix, Gradient, Location, Op, Parameter, Rule, Severity, Trace
from gradlint.flow import ZeroInSteps, flat_in_steps, same_class_siblings, zero_in_steps
from gradlint.traces import BIASED_LAYERS, DIVIDE, NO_SITE, REDUCTIONS, SELECTIONS, SUMS, SiteId, Stop

_TINY = 1e-10
"""Size of a gradient relative to the median of all; rounding in single precision alone exceeds it."""
_KEEPS_FROM_ZERO = SUMS | {"clamp", "clamp_min"}
"""Calls that keep a number which is divided by from being zero."""


class ZeroGradient(Rule):
    """A gradient that reaches the parameter but is zero.

    ## What it does
    With `--numeric`, trains a few steps on the setup's inputs and undoes them. Finds parameters whose gradient is zero
    in every entry of every step, or negligible beside that of other parameters. So is one that is only what rounding
    leaves of zero, which a run in double precision shows. The finding names the call in which the gradient becomes
    zero. Recorded steps of the setup's own show two of these causes without `--numeric`: layers that keep each other at
    zero, and a softmax over the single output of a layer.

    ## Why it is bad
    The parameter keeps its initial value although nothing is frozen and no path is cut. Two consecutive layers that are
    both zero keep each other at zero. A softmax over one element returns 1 for every input.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.down = nn.Linear(4, 2, bias=False)
            self.up = nn.Linear(2, 4, bias=False)
            nn.init.zeros_(self.down.weight)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.body(x) + self.up(self.down(x))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(3, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Linear(4, 4)
            self.down = nn.Linear(4, 2, bias=False)
            self.up = nn.Linear(2, 4, bias=False)
            nn.init.zeros_(self.up.weight)

        def forward(self, x):
            return self.body(x) + self.up(self.down(x))

    def build():
        model = Net()
        return {"model": model, "inputs": (torch.randn(3, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported if the gradient is zero in the first steps only (LoRA, zero convolutions), or on dead units beside live
    ones. The severity is info behind a mask or a zero weight, and if a sibling in the same container has a gradient
    (experts). It is also info if a norm or softmax cancels a bias, or if the whole loss is flat for these inputs. The
    steps change each parameter in proportion to its size, whatever the learning rate, unless that is zero. If only
    `step` computes the loss, it is run again without its updates. Other causes need `--numeric`.

    ## References
    https://arxiv.org/abs/2302.05543 (ControlNet, why one zero convolution learns)
    """

    code = "GL605"
    name = "zero-gradient"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient", "numeric or step"})
    yields_to = frozenset({"GL114"})

    MESSAGE = "{parameters} {get} a gradient of exactly zero in all {steps} steps: {reason}."
    MESSAGE_TINY = "{parameters} {get} an almost zero gradient in all {steps} steps: {reason}."
    TINY = "it is negligible beside the gradients of other parameters"
    ROUNDING = "it is what rounding leaves of zero, as double precision shows"
    SIBLING = "with these inputs, only a sibling of the same class gets gradient"
    CANCELLED_BIAS = "a later operation cancels the added value"
    INACTIVE = "with the current weights, every unit after it is inactive"
    FLAT_LOSS = "with these inputs, the whole loss is flat"
    CANCELLING_PATHS = "the gradients of several paths cancel"
    STOPS = "it becomes zero in {call}"
    ZERO_WEIGHT = "{call} multiplies by zeros that are not trainable"
    NOT_SELECTED = "with these inputs, {call} selects no element that depends on it"
    SINGLE_ELEMENT = "{call} normalizes over a single element, so its result is always 1"
    ZERO_OPERANDS = "both operands of {call} are zero and keep each other at zero"
    FIX = (
        "Choose initial values that let gradient through, as nn.init.xavier_uniform_(weight) does, or "
        "normalize over more than one element."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        measured = context.flow.evidence.gradients
        yield from self._in_steps(context) if measured is None or measured.failure else self._measured(context)

    def _in_steps(self, context: Context) -> Iterator[Finding]:
        """Yield the findings that the recorded steps prove without measuring."""
        trace = context.trace

        if flat := context.unreported(self, flat_in_steps(context.flow)):
            yield context.finding(
                self,
                context.fill(self.MESSAGE, flat, steps=len(context.training.steps), reason=self.FLAT_LOSS),
                at=context.training.backwards[0].site,
                parameters=flat,
                severity=Severity.INFO,
            )

        def place(cause: ZeroInSteps) -> tuple[Location | None, str]:
            op = trace.ops[cause.op]
            template = self.SINGLE_ELEMENT if cause.single else self.ZERO_OPERANDS
            return trace.location(op.site), template.format(call=op.name)

        for (where, reason), causes in context.by_place(zero_in_steps(context.flow), place):
            parameters = context.unreported(self, {p.index: p for c in causes for p in c.parameters}.values())
            if not parameters:
                continue
            steps = len(context.training.steps_of(frozenset({parameters[0].key})))
            yield context.finding(
                self,
                context.fill(self.MESSAGE, parameters, steps=steps, reason=reason),
                at=where,
                parameters=parameters,
                related=[context.related("registered here", parameters[0].registered_by)],
                fix=Fix(self.FIX),
            )

    def _measured(self, context: Context) -> Iterator[Finding]:
        """Yield the findings about measured gradients."""
        gradients = context.gradient_sizes.gradients
        steps = zip(*(gradient.sizes for gradient in gradients.values()), strict=True)
        least = [_TINY * statistics.median([size for size in sizes if size] or [0.0]) for sizes in steps]
        judged = [
            (parameter, verdict)
            for parameter in context.unreported(self, context.flow.by_index(gradients))
            if (verdict := self._verdict(context, parameter, least)) is not None
        ]
        for (where, reason, severity), members in context.by_place(judged, lambda item: item[1]):
            parameters = [parameter for parameter, _ in members]
            template = self.MESSAGE if gradients[parameters[0].index].zero else self.MESSAGE_TINY
            yield context.finding(
                self,
                context.fill(template, parameters, steps=context.gradient_sizes.steps, reason=reason),
                at=where,
                parameters=parameters,
                related=[context.related("registered here", parameters[0].registered_by)],
                fix=Fix(self.FIX),
                severity=severity,
            )

    def _verdict(
        self, context: Context, parameter: Parameter, least: Sequence[float]
    ) -> tuple[Location | None, str, Severity] | None:
        """Return the line to report, the reason and the severity; None without a finding.

        `least` is the size of each step below which a gradient is negligible beside the others.
        """
        gradient = context.gradient_sizes.gradients[parameter.index]
        if gradient.zero:
            reason, severity = self._reason(context, parameter)
            site = _read_at(context, parameter) if gradient.stop is None else gradient.stop.site
        elif gradient.is_rounding or all(
            size is not None and size < bound for size, bound in zip(gradient.sizes, least, strict=True)
        ):
            site, reason, severity = self._small(context, parameter, gradient)
        else:
            return None
        return context.trace.location(site), reason, severity

    def _small(self, context: Context, parameter: Parameter, gradient: Gradient) -> tuple[SiteId, str, Severity]:
        """Return the site, the reason and the severity of a gradient that is nearly zero."""
        site = _read_at(context, parameter)
        if not gradient.is_rounding:
            is_bias = _is_only_added(context, parameter)
            return site, self.TINY, Severity.INFO if is_bias else Severity.WARNING
        for op in _divisions_by_themselves(context.trace):
            if context.flow.masks.data.get(op.inputs[0], 0) >> parameter.index & 1:
                severity = Severity.INFO if _has_short_inputs(context) else Severity.WARNING
                return op.site, self.SINGLE_ELEMENT.format(call=op.name), severity
        # Softmax cancels the bias of the keys, and a norm that of the norm before it: models may well have them.
        return site, self.ROUNDING, Severity.INFO

    def _reason(self, context: Context, parameter: Parameter) -> tuple[str, Severity]:
        """Return why the gradient of a parameter is zero, and the severity."""
        measured = context.gradient_sizes
        gradient = measured.gradients[parameter.index]
        stop = gradient.stop
        alike = {p.index for twin in same_class_siblings(context.trace, parameter) for p in twin}
        if any(measured.gradients[index].sizes[-1] for index in alike & measured.gradients.keys()):
            return self.SIBLING, Severity.INFO
        if _is_only_added(context, parameter) and (stop is None or _reads(context, parameter, stop)):
            return self.CANCELLED_BIAS, Severity.INFO
        if stop is not None and (reason := self._reason_in_call(context, stop)) is not None:
            return reason
        if gradient.nonzero_with_other_signs:
            return self.INACTIVE, Severity.INFO
        if not measured.loss_is_flat and all(g.zero for g in measured.gradients.values()):
            return self.FLAT_LOSS, Severity.INFO
        return self.CANCELLING_PATHS if stop is None else self.STOPS.format(call=stop.name), Severity.WARNING

    def _reason_in_call(self, context: Context, stop: Stop) -> tuple[str, Severity] | None:
        """Return why the gradient becomes zero in a call, if the trace shows it."""
        if stop.weighted:
            template, severity = self.ZERO_WEIGHT, Severity.INFO
        elif stop.name in SELECTIONS:
            template, severity = self.NOT_SELECTED, Severity.INFO
        elif stop.single:
            # a dimension of the inputs may be 1 by chance: a sequence of one token
            severity = Severity.INFO if _has_short_inputs(context) else Severity.WARNING
            template = self.SINGLE_ELEMENT
        elif stop.zeros:
            template, severity = self.ZERO_OPERANDS, Severity.WARNING
        else:
            return None
        return template.format(call=stop.name), severity


def _is_only_added(context: Context, parameter: Parameter) -> bool:
    """Return True if each operation that can give a parameter gradient adds it: a bias."""
    trace = context.trace
    ops = (trace.ops[n] for n in context.flow.readers(parameter))
    readers = [op for op in ops if any(trace.values[output].requires_grad for output in op.outputs)]
    own = trace.values_of[parameter.index]
    for op in readers:
        if op.name in BIASED_LAYERS and op.tensor(2, "bias") in own:
            continue
        if op.name not in SUMS:
            return False
    return bool(readers)


def _read_at(context: Context, parameter: Parameter) -> SiteId:
    """Return the site of the first operation that reads a parameter."""
    return next((context.trace.ops[n].site for n in context.flow.readers(parameter)), NO_SITE)


def _divisions_by_themselves(trace: Trace) -> Iterator[Op]:
    """Yield the ops of the forward that divide values by their sums over a single element."""
    for op in trace.ops[trace.forward_start :]:
        if op.name not in DIVIDE or len(op.inputs) != 2:
            continue
        whole, total = op.inputs[0], trace.made_by(op.inputs[1])
        while total is not None and total.name in _KEEPS_FROM_ZERO and len(total.inputs) == 1:
            total = trace.made_by(total.inputs[0])
        if total is not None and total.name in REDUCTIONS and total.inputs[:1] == (whole,):
            if trace.values[total.outputs[0]].shape == trace.values[whole].shape:
                yield op


def _reads(context: Context, parameter: Parameter, stop: Stop) -> bool:
    """Return True if the gradient becomes zero only where the parameter is read."""
    ops = (context.trace.ops[n] for n in context.flow.readers(parameter))
    return any(op.site == stop.site and op.name == stop.name for op in ops)


def _has_short_inputs(context: Context) -> bool:
    """Return True if an input has size 1 in any dimension but batch and image channels."""
    shapes = [context.trace.values[v].shape for v in context.trace.inputs]
    return any(size == 1 and not (len(s) > 3 and axis == 1) for s in shapes for axis, size in enumerate(s) if axis)
