"""GL605 zero-gradient."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Numeric, Parameter, Rule, Severity, Stop, siblings

_TINY = 1e-10
"""Relative to the other parameters' gradients; rounding alone gives more than that in single precision."""
_LAYERS = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
_SUMS = "add add_ __add__ __radd__ __iadd__ sub sub_ __sub__ __rsub__".split()
_SELECTIONS = "where masked_fill masked_fill_ masked_select __getitem__ gather index_select take_along_dim".split()


class ZeroGradient(Rule):
    """A gradient that reaches the parameter but is zero.

    ## What it does
    With `--numeric`, trains a few steps on the setup's inputs and takes them all back. Finds parameters whose gradient
    is zero in every entry of every step, or negligible beside that of other parameters. The finding names the call
    behind which the gradient is zero.

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
    `step` computes the loss, nothing is measured, and a note says so.

    ## References
    https://arxiv.org/abs/2302.05543 (ControlNet, why one zero convolution learns)
    """

    code = "GL605"
    name = "zero-gradient"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient", "numeric"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        numeric = trace.numeric
        assert numeric is not None
        groups: dict[tuple[Location | None, str, Severity], list[Parameter]] = {}
        for parameter in context.flow.by_index(numeric.gradients):
            gradient = numeric.gradients[parameter.index]
            if gradient.zero:
                why, severity = _why(context, numeric, parameter)
                site = gradient.stop.site if gradient.stop is not None else _used_at(context, parameter)
            elif _tiny(numeric, parameter):
                why, site = _VANISHES, _used_at(context, parameter)
                severity = Severity.INFO if _adds(context, parameter) else Severity.WARNING
            else:
                continue
            groups.setdefault((trace.location(site), why, severity), []).append(parameter)
        for (where, why, severity), parameters in groups.items():
            exactly = "is all but zero" if why == _VANISHES else "is exactly zero"
            yield context.finding(
                self,
                f"gradient arrives at {context.names(parameters)} and {exactly} in each of {numeric.steps} steps: "
                f"{why}.",
                at=where,
                parameters=parameters,
                related=[context.related("made here", p.registered_by) for p in parameters[:1]],
                fix=Fix("Start with values that let gradient through, or give what chooses more than one to choose."),
                severity=severity,
            )


_VANISHES = "next to the other parameters' it vanishes on its way"


def _why(context: Context, numeric: Numeric, parameter: Parameter) -> tuple[str, Severity]:
    """The cause in words, and how much it weighs."""
    gradient = numeric.gradients[parameter.index]
    stop = gradient.stop
    alike = {p.index for twin in siblings(context.trace, parameter) for p in twin}
    if any(numeric.gradients[index].sizes[-1] for index in alike & numeric.gradients.keys()):
        return "with these inputs another of its kind has the gradient", Severity.INFO
    if _adds(context, parameter) and (stop is None or _reads(context, parameter, stop)):
        return "what comes after it takes out what it adds", Severity.INFO
    stopped = None if stop is None else _stopped(context, stop)
    if stopped is not None:
        return stopped
    if gradient.revived:
        return "these weights happen to switch off all that it feeds", Severity.INFO
    if not numeric.flat and all(g.zero for g in numeric.gradients.values()):
        return "the whole loss is flat with these inputs", Severity.INFO
    return "the ways on from it cancel out" if stop is None else f"it stops in {stop.name}", Severity.WARNING


def _stopped(context: Context, stop: Stop) -> tuple[str, Severity] | None:
    """As `_why`, as far as the call tells behind which the gradient is zero."""
    if stop.weighted:
        return f"{stop.name} multiplies by zeros that do not train", Severity.INFO
    if stop.name in _SELECTIONS:
        return f"{stop.name} chooses nothing of it with these inputs", Severity.INFO
    if stop.single:
        # a dimension of the inputs may be 1 by chance: a sequence of one token
        severity = Severity.INFO if _short_inputs(context) else Severity.WARNING
        return f"{stop.name} has one element to choose from, and gives it 1 whatever it is", severity
    if stop.zeros:
        return f"both operands of {stop.name} are zero, and each keeps the other there", Severity.WARNING
    return None


def _tiny(numeric: Numeric, parameter: Parameter) -> bool:
    """Whether a gradient was there, and vanishing beside the typical one, in every step."""
    for step, size in enumerate(numeric.gradients[parameter.index].sizes):
        typical = statistics.median([s for g in numeric.gradients.values() if (s := g.sizes[step])] or [0.0])
        if size is None or size >= _TINY * typical:
            return False
    return True


def _used_at(context: Context, parameter: Parameter) -> int:
    return next((context.trace.ops[n].site for n in context.flow.readers(parameter)), -1)


def _adds(context: Context, parameter: Parameter) -> bool:
    """Whether all that is done with a parameter is to add it: a bias."""
    trace = context.trace
    readers = [trace.ops[n] for n in context.flow.readers(parameter)]
    own = {value for value, index in trace.owners.items() if index == parameter.index}
    for op in readers:
        if op.name in _LAYERS and op.tensor(2, "bias") in own:
            continue
        if op.name not in _SUMS:
            return False
    return bool(readers)


def _reads(context: Context, parameter: Parameter, stop: Stop) -> bool:
    """Whether the gradient becomes zero only where the parameter is used."""
    ops = (context.trace.ops[n] for n in context.flow.readers(parameter))
    return any(op.site == stop.site and op.name == stop.name for op in ops)


def _short_inputs(context: Context) -> bool:
    """Whether an input has one element along a dimension that is neither the batch nor the channels of an image."""
    shapes = [context.trace.values[v].shape for v in context.trace.inputs]
    return any(size == 1 and not (len(s) > 3 and axis == 1) for s in shapes for axis, size in enumerate(s) if axis)
