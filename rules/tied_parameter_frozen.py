"""GL205 tied-parameter-frozen."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity, Trace
from gradlint.rulekit import common_path
from gradlint.source import function_of
from gradlint.traces import NO_MODULE, Freeze, Unfreeze


class TiedParameterFrozen(Rule):
    """Freezing one end of a tied weight freezes the other.

    ## What it does
    Looks at tensors with several names. Finds a freeze through one name that also freezes a layer with other, trainable
    parameters. Also finds a `requires_grad_(True)` through one name that undoes a freeze through another.

    ## Why it is bad
    `requires_grad` belongs to the tensor, not to the name. An embedding that was frozen one line before trains again
    after the output layer tied to it is unfrozen.

    ## Example
    ```python
    import torch
    from torch import nn

    class LM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids):
            return self.head(self.body(self.embed(ids)))

    def build():
        model = LM()
        model.embed.requires_grad_(False)
        model.head.requires_grad_(True)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class LM(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(10, 4)
            self.body = nn.Linear(4, 4)
            self.head = nn.Linear(4, 10, bias=False)

        def forward(self, ids):
            return self.head(self.body(self.embed(ids)))

    def build():
        model = LM()
        model.embed.requires_grad_(False)
        model.head.requires_grad_(True)
        return {"model": model, "inputs": (torch.tensor([1, 2]),)}
    ```

    ## Known limits
    Not reported if a line changes both layers. If it changes parameters one by one, it is about the part of the model
    that holds all of them. A tied layer without other parameters counts only if the line freezes more of such a part.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.requires_grad_
    """

    code = "GL205"
    name = "tied-parameter-frozen"
    severity = Severity.WARNING

    MESSAGE_UNFROZEN = "{names} are one tensor: this line unfreezes it, though it was frozen under its other name."
    MESSAGE_FROZEN = "{names} are one tensor: this line freezes it under both names, while {parameters} {still_train}."
    MESSAGE_OTHER = "{names} are one tensor: the line that freezes one part of the model freezes {other} too."
    FIX = "Untie the weights with nn.Parameter(weight.detach().clone()), or freeze (or train) both layers on purpose."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for parameter in trace.parameters:
            ends = _ends(context, parameter)
            changes = parameter.flag_changes
            if len(ends) < 2 or not changes or not context.by_user(changes[-1].site):
                continue
            named = _end_of(context, changes[-1], ends)
            if named is None:
                continue
            if parameter.requires_grad:
                freeze = next((e for e in reversed(changes) if isinstance(e, Freeze)), None)
                frozen = _end_of(context, freeze, ends) if freeze is not None else None
                if frozen is not None and frozen is not named:
                    yield self._finding(context, parameter, changes[-1], freeze)
                continue
            inside, others_train = _end_in_part(context, changes[-1], ends)
            alone = inside is named and others_train
            for end in ends:
                rest = [p for p in trace.own(end) if p is not parameter]
                if end is not named and (rest or alone) and all(p.requires_grad for p in rest):
                    yield self._finding(context, parameter, changes[-1], None, rest, named)
                    break

    def _finding(
        self,
        context: Context,
        parameter: Parameter,
        event: Freeze | Unfreeze,
        freeze: Freeze | None,
        rest: Sequence[Parameter] = (),
        named: Module | None = None,
    ) -> Finding:
        names = " and ".join(parameter.aliases)
        tie = parameter.registered_by
        if freeze is not None:
            message = self.MESSAGE_UNFROZEN.format(names=names)
        elif not rest and named is not None:
            other = next(name for name in parameter.aliases if name.rpartition(".")[0] != named.fqn)
            message = self.MESSAGE_OTHER.format(names=names, other=other)
        else:
            message = context.fill(self.MESSAGE_FROZEN, rest, names=names)
        return context.finding(
            self,
            message,
            at=event.site,
            parameters=[parameter],
            aliases=True,
            related=[
                context.related("frozen here", freeze),
                context.related("tied here", tie),
                *context.callers(event.site),
            ],
            fix=Fix(self.FIX),
        )


def _ends(context: Context, parameter: Parameter) -> list[Module]:
    """Return the modules that register a parameter."""
    return list(context.trace.holders[parameter.index])


def _end_of(context: Context, event: Freeze | Unfreeze, ends: list[Module]) -> Module | None:
    """Return the only end below the modules on which a line changes requires_grad."""
    trace = context.trace
    # one line in a loop may change several modules
    line = trace.location(event.site)
    same = {e.through for e in trace.events_of(type(event)) if trace.location(e.site) == line}
    if same == {NO_MODULE}:
        return _end_in_part(context, event, ends)[0]
    touched = [end for end in ends if any(module.number in same for module in trace.around(end.number))]
    return touched[0] if len(touched) == 1 else None


def _end_in_part(context: Context, event: Freeze | Unfreeze, ends: list[Module]) -> tuple[Module | None, bool]:
    """Return the end inside the part that a line changes, and True if others train outside.

    The part is the smallest that holds an end and all else that the line changes. None if no end alone is in it.
    """
    trace = context.trace
    line = trace.location(event.site)
    keys = {e.parameter for e in trace.events_of(type(event)) if trace.location(e.site) == line}
    own = {p.index for end in ends for p in trace.own(end)}
    paths = [p.fqn.split(".")[:-1] for p in trace.with_keys(keys) if p.index not in own]
    parts = {end.number: common_path([end.fqn.split("."), *paths]) for end in ends}
    end = max(ends, key=lambda end: len(parts[end.number]))
    part = parts[end.number]
    if not paths or any(other is not end and len(parts[other.number]) == len(part) for other in ends):
        return None, False
    texts = _texts_of_loop(trace, event)
    if event.through == NO_MODULE and (texts is None or (texts and not any(text in f"{end.fqn}." for text in texts))):
        return None, False  # all but a part may be frozen
    prefix = ".".join([*part, ""])
    shared = ".".join([*common_path(end.fqn.split(".") for end in ends), ""]).removeprefix(".")
    outside = [p for p in trace.parameters if not any(name.startswith(prefix) for name in p.aliases)]
    # a model beside the one that ties the weights, as the policy beside its frozen reference, says nothing
    outside = [p for p in outside if any(name.startswith(shared) for name in p.aliases)]
    return end, any(p.requires_grad for p in outside)


def _texts_of_loop(trace: Trace, event: Freeze | Unfreeze) -> list[str] | None:
    """Return the texts in the loop over parameters around a line; None without such a loop."""
    frame = trace.frame(event.site)
    function = function_of(frame.code) if frame is not None else None
    if frame is None or function is None:
        return None
    for node in function.nodes():
        if isinstance(node, ast.For) and node.lineno <= frame.location.line <= (node.end_lineno or 0):
            if any(isinstance(n, ast.Attribute) and n.attr.endswith("parameters") for n in ast.walk(node.iter)):
                return [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return None
