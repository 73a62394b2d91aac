"""GL112 parameters-sharing-memory."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Parameter, Rule, Severity, Trace
from gradlint.rulekit import list_of
from gradlint.traces import ParameterRegistration, ParameterWrite


class ParametersSharingMemory(Rule):
    """Two parameters over one memory, both stepped by optimizers.

    ## What it does
    Finds pairs of parameters whose memory overlaps, where both get gradient and an optimizer holds both:
    `nn.Parameter(other.t())`, `nn.Parameter(other.data)`, `a.data = b.data`.

    ## Why it is bad
    `nn.Parameter` copies nothing: a view of a weight is a second parameter over the same memory. Each has a gradient,
    a momentum and a weight decay of its own, so each step changes the one memory twice. A tied weight has the sum of
    both gradients and is stepped once.

    ## Example
    ```python
    import torch
    from torch import nn

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 4)
            self.decoder = nn.Linear(4, 6)
            self.decoder.weight = nn.Parameter(self.encoder.weight.t())

        def forward(self, x):
            return self.decoder(torch.tanh(self.encoder(x)))

    def build():
        model = Autoencoder()
        return {
            "model": model,
            "inputs": (torch.randn(3, 6),),
            "optimizer": torch.optim.Adam(model.parameters()),
        }
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Autoencoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(6, 4)
            self.bias = nn.Parameter(torch.zeros(6))

        def forward(self, x):
            code = torch.tanh(self.encoder(x))
            return nn.functional.linear(code, self.encoder.weight.t(), self.bias)

    def build():
        model = Autoencoder()
        return {
            "model": model,
            "inputs": (torch.randn(3, 6),),
            "optimizer": torch.optim.Adam(model.parameters()),
        }
    ```

    ## Known limits
    The severity is warning where every optimizer of the pair is SGD without weight decay: without momentum, it moves
    the memory as it would move a tied weight. Parameters of wrapper types without a storage of their own are not
    compared.

    ## References
    https://docs.pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html
    """

    code = "GL112"
    name = "parameters-sharing-memory"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})
    yields_to = frozenset({"GL111"})

    MESSAGE = "{parameters} and {others} share memory: each step updates it once for each of them."
    RELATED = "{name} is created here"
    FIX = (
        "To tie the weights, use one parameter in both places (F.linear(x, weight.t())). For a parameter of its own, "
        "copy the values: nn.Parameter(weight.detach().clone())."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        pairs: dict[int, tuple[Event | None, Parameter, Parameter]] = {}
        for parameter in trace.parameters:
            if not _is_stepped(context, parameter):
                continue
            for index in sorted(parameter.shares_memory_with):
                other = trace.parameters[index]
                if index < parameter.index and _is_stepped(context, other):
                    made = _made(parameter), _made(other)
                    is_second = made[1] is None or (made[0] is not None and made[0].number > made[1].number)
                    second, first = (parameter, other) if is_second else (other, parameter)
                    pairs.setdefault(second.index, (made[0] if is_second else made[1], second, first))
        for site, members in context.by_place(pairs.values(), lambda pair: pair[0].site if pair[0] else None):
            parameters = [second for _, second, _ in members]
            firsts = {first.index: first for _, _, first in members}
            yield context.finding(
                self,
                context.fill(self.MESSAGE, parameters, others=list_of(first.fqn for first in firsts.values())),
                at=site if site is not None else trace.optimizers[parameters[0].groups[0][0]].site,
                parameters=parameters,
                related=[
                    *(context.related(self.RELATED.format(name=f.fqn), _made(f)) for f in list(firsts.values())[:1]),
                    *(context.callers(site, limit=1) if site is not None else ()),
                ],
                fix=Fix(self.FIX),
                severity=Severity.WARNING if _adds_up(trace, [*parameters, *firsts.values()]) else None,
            )


def _is_stepped(context: Context, parameter: Parameter) -> bool:
    """Return True if gradient reaches a parameter, and an optimizer moves it."""
    holders = (context.trace.optimizers[number].groups[group] for number, group in parameter.groups)
    return parameter.index in context.flow.reached and any(group.lr != 0 for group in holders)


def _made(parameter: Parameter) -> Event | None:
    """Return the event that gave a parameter its memory; None if that was before the recording."""
    events = [
        e
        for e in parameter.history
        if (isinstance(e, ParameterRegistration) and e.is_new)
        or (isinstance(e, ParameterWrite) and e.op_name in ("data", "set_") and not e.converts)
    ]
    return events[-1] if events else None


def _adds_up(trace: Trace, parameters: list[Parameter]) -> bool:
    """Return True if two steps may add up to that of a tied weight: SGD without decay."""
    holders = [(trace.optimizers[number], group) for p in parameters for number, group in p.groups]
    return all(o.type == "SGD" and not o.groups[group].weight_decay for o, group in holders)
