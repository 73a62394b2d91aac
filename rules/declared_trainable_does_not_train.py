"""GL701 declared-trainable-does-not-train."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Declaration, Finding, Fix, Parameter, Rule, Severity, Standing, standing


class DeclaredTrainableDoesNotTrain(Rule):
    """A parameter that is declared trainable but does not train.

    ## What it does
    Compares the patterns under `trains` (of the setup, the configuration or the check) with the recording. A parameter
    trains if gradient reaches it and an optimizer contains it with a nonzero learning rate. If no optimizer is known,
    gradient is enough. The finding is at the line that prevents training: the freeze, the cut, the optimizer's
    constructor, or the creation of an unused layer.

    ## Why it is bad
    Parameters that should learn keep their initial values, and nothing fails.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        encoder, head = nn.Linear(4, 8), nn.Linear(8, 2)
        model = nn.Sequential(encoder, nn.ReLU(), head)
        model.requires_grad_(False)
        encoder.requires_grad_(True)
        optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "trains": ["0.*", "2.*"]}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        encoder, head = nn.Linear(4, 8), nn.Linear(8, 2)
        model = nn.Sequential(encoder, nn.ReLU(), head)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "trains": ["0.*", "2.*"]}
    ```

    ## Known limits
    Only one loss is judged. If it does not decide (the other network of a GAN, a setup with a step and no loss), the
    severity is info.

    ## References
    README, "Contracts".
    """

    code = "GL701"
    name = "declared-trainable-does-not-train"
    severity = Severity.ERROR
    needs = frozenset({"contract"})

    def check(self, context: Context) -> Iterator[Finding]:
        groups: dict[tuple[object, ...], list[tuple[Parameter, Declaration, Standing]]] = {}
        for parameter, declaration in context.contract.declared("trains", context.trace):
            found = standing(context.flow, parameter)
            if found.state != "trains" and parameter.numel:
                groups.setdefault((found.location, found.state, found.why), []).append((parameter, declaration, found))
        for members in groups.values():
            yield self._finding(context, members)

    def _finding(self, context: Context, members: list[tuple[Parameter, Declaration, Standing]]) -> Finding:
        found = members[0][2]
        parameters = [p for p, _, _ in members]
        declarations = list(dict.fromkeys(d for _, d, _ in members))
        one = len(parameters) == 1
        patterns = ", ".join(repr(d.pattern) for d in declarations)
        message = f"{context.names(parameters)} {'is' if one else 'are'} declared to train ({patterns})"
        unknown = found.state == "unknown"
        if unknown:
            message += f", and this recording cannot tell whether {'it does' if one else 'they do'}: {found.why}."
        else:
            message += f" and {'does' if one else 'do'} not: {_told(found, one)}."
        later = found.cut.later if found.cut else ()
        optimizer = context.trace.optimizers[0] if len(context.trace.optimizers) == 1 else None
        return context.finding(
            self,
            message,
            at=found.location,
            parameters=parameters,
            related=[
                *(context.related("and would be cut here next", place) for place in later),
                *context.callers(found.site),
                context.related("made here", parameters[0].registered_by) if found.state == "unheld" else None,
                context.related("optimizer made here", optimizer.site if optimizer else None),
                *(context.related("declared here", d.location) for d in declarations[:2]),
            ],
            fix=Fix(_FIXES[found.state]),
            severity=Severity.INFO if unknown else None,
        )


_FIXES = {
    "frozen": "Take back the freeze, or declare them frozen.",
    "starved": "Let the gradient through, or declare them frozen and freeze them.",
    "unused": "Use them in the forward, or take them out of the contract.",
    "unheld": "Give them to the optimizer, or declare them frozen and freeze them.",
    "rests": "Give the group a learning rate, or declare them frozen and freeze them.",
    "unknown": "Give a loss that trains them, or check a set-up of its own for it.",
}


def _told(found: Standing, one: bool) -> str:
    if found.state != "frozen":
        return found.why
    if found.why.startswith("made"):
        return f"{'it was' if one else 'they were'} {found.why}"
    return f"{'it is' if one else 'they are'} {found.why}"
