"""GL209 freeze-lost-by-replacement."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, Trace
from gradlint.flow import OutcomeKind, outcome_of, replaced_frozen
from gradlint.source import class_of
from gradlint.traces import Freeze, ParameterRegistration, Registration, SiteId, Unfreeze


@dataclass(frozen=True)
class _Lost:
    """A parameter that trains in the place of a frozen one with its values."""

    parameter: Parameter
    replacement: Registration
    freeze: Freeze
    site: SiteId
    """Site of the call that replaces, outside the methods of the module itself."""
    is_assignment: bool
    """True if user code assigns the new parameter or module by itself."""
    is_whole: bool
    """True if the new parameter has the shape of the old one."""


class FreezeLostByReplacement(Rule):
    """A conversion that replaces a frozen parameter by one that trains.

    ## What it does
    Finds parameters that train in the place of a frozen one, under its name, with values computed from it: after a
    resize of an embedding, a conversion, `layer.weight = nn.Parameter(layer.weight.data * mask)`. The severity is info
    if user code assigns a larger or smaller layer that takes over part of the values.

    ## Why it is bad
    `requires_grad` belongs to the tensor. The new tensor requires grad again, so pretrained values that were frozen
    train with the rest.

    ## Example
    ```python
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def resize(self, size):
            embed = nn.Embedding(size, 4)
            embed.weight.data[: len(self.embed.weight)] = self.embed.weight.data
            self.embed = embed

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        model = Model()
        model.embed.requires_grad_(False)
        model.resize(11)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def resize(self, size):
            embed = nn.Embedding(size, 4)
            embed.weight.data[: len(self.embed.weight)] = self.embed.weight.data
            self.embed = embed

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        model = Model()
        model.resize(11)
        model.embed.requires_grad_(False)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Known limits
    Not reported for layers with values of their own, as a new head after the freeze. Not reported if a hook sees the
    gradient, which it may mask, or if code writes the parameter while it trains.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parameter.Parameter.html
    """

    code = "GL209"
    name = "freeze-lost-by-replacement"
    severity = Severity.WARNING

    MESSAGE = "this call replaces {parameters}, frozen at {place}, by {tensors}: the freeze is lost."
    MESSAGE_ASSIGNED = "this line replaces {parameters}, frozen at {place}, by {tensors}."
    RELATED_FROZEN = "frozen here"
    RELATED_REPLACED = "replaced here"
    FIX = "Freeze last, or set requires_grad of the new parameter to that of the old one."

    def check(self, context: Context) -> Iterator[Finding]:
        lost = list(_lost(context))
        for (site, is_info), members in context.by_place(
            lost, lambda one: (one.site, one.is_assignment and not one.is_whole)
        ):
            parameters, first = [one.parameter for one in members], members[0]
            yield context.finding(
                self,
                context.fill(
                    self.MESSAGE_ASSIGNED if first.is_assignment else self.MESSAGE,
                    parameters,
                    place=context.place(first.freeze),
                    tensors="a new tensor that trains" if len(parameters) == 1 else "new tensors that train",
                ),
                at=site,
                parameters=parameters,
                related=[
                    context.related(self.RELATED_FROZEN, first.freeze),
                    *(context.related(self.RELATED_REPLACED, one.replacement) for one in members[:2]),
                ],
                fix=Fix(self.FIX),
                demoted=is_info,
            )


def _lost(context: Context) -> Iterator[_Lost]:
    """Yield the parameters that train in the place of a frozen one with its values."""
    trace = context.trace
    replaced = replaced_frozen(trace)
    flags = {e.parameter: e for e in trace.events if isinstance(e, Freeze | Unfreeze)}
    names = {e.parameter: e.name for e in trace.events_of(ParameterRegistration)}
    for parameter in trace.parameters:
        replacement = replaced.get(parameter.index)
        if replacement is None or parameter.has_hook or parameter.written:
            continue
        if any(isinstance(e, Unfreeze) for e in parameter.history):
            continue
        if outcome_of(context.flow, parameter).kind is not OutcomeKind.TRAINS:
            continue
        freezes = [flags[key] for key in parameter.made_from if names.get(key) == parameter.fqn.rpartition(".")[2]]
        freeze = next((e for e in freezes if isinstance(e, Freeze) and e.number < replacement.number), None)
        if freeze is not None:
            site, is_assignment = _call_of(trace, replacement)
            yield _Lost(parameter, replacement, freeze, site, is_assignment, _is_whole(trace, parameter))


def _call_of(trace: Trace, replacement: Registration) -> tuple[SiteId, bool]:
    """Return the site of the call that replaces, and True if it is an assignment by user code.

    A method by which a module replaces parts of itself is a call, its constructor is not.
    """
    own = trace.modules[replacement.module].type.bases
    site = replacement.site
    for frame, above in trace.sites.links(replacement.site):
        cls = class_of(frame.code)
        if cls is None or cls.name not in own or frame.code.co_name == "__init__":
            break
        site = above
    else:
        site = replacement.site  # no user code called the forward that replaces
    is_user = next((f.project for f in trace.sites.chain(replacement.site)), False)
    return site, is_user and site == replacement.site


def _is_whole(trace: Trace, parameter: Parameter) -> bool:
    """Return True if all of a parameter was computed or copied, not some of its rows."""
    copies = [trace.ops[e.op].outputs[:1] for e in parameter.writes if e.op_name in ("copy_", "data")]
    return not parameter.writes or any(
        trace.values[value].shape == parameter.shape for outputs in copies for value in outputs
    )
