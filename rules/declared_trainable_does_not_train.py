"""GL701 declared-trainable-does-not-train."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity
from gradlint.flow import Outcome, OutcomeKind, outcome_of
from gradlint.rulekit import Declaration, DeclarationKind


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

    MESSAGE = "{parameters} {are} declared trainable ({patterns}) but {do} not train: {cause}."
    MESSAGE_FROZEN = "{parameters} {are} declared trainable ({patterns}) but {cause}."
    MESSAGE_UNKNOWN = (
        "{parameters} {are} declared trainable ({patterns}), but this recording does not show whether {they} {train}: "
        "{cause}."
    )
    FIX_FROZEN = 'Remove the freeze, or declare the parameters in "frozen": [...].'
    FIX_NO_GRADIENT = 'Let gradient through, or freeze the parameters and declare them in "frozen": [...].'
    FIX_UNUSED = 'Use the parameters in the forward, or remove them from "trains": [...].'
    FIX_NOT_IN_OPTIMIZER = 'Pass the parameters to the optimizer, or freeze them and declare them in "frozen": [...].'
    FIX_ZERO_LR = 'Give the group a learning rate, or freeze the parameters and declare them in "frozen": [...].'
    FIX_UNKNOWN = "Pass a loss that trains them, or check these parameters in a separate training setup."

    def check(self, context: Context) -> Iterator[Finding]:
        declared = [
            (parameter, declaration, outcome_of(context.flow, parameter))
            for parameter, declaration in context.contract.declared(DeclarationKind.TRAINS, context.trace)
            if parameter.numel
        ]
        failing = [member for member in declared if member[2].kind is not OutcomeKind.TRAINS]
        for _, members in context.by_place(failing, lambda member: (member[2].location, member[2].kind, member[2].why)):
            yield self._finding(context, members)

    def _finding(self, context: Context, members: list[tuple[Parameter, Declaration, Outcome]]) -> Finding:
        parameters = [parameter for parameter, _, _ in members]
        declarations = list(dict.fromkeys(declaration for _, declaration, _ in members))
        outcome = members[0][2]
        template = {OutcomeKind.FROZEN: self.MESSAGE_FROZEN, OutcomeKind.UNKNOWN: self.MESSAGE_UNKNOWN}.get(
            outcome.kind, self.MESSAGE
        )
        patterns = ", ".join(repr(d.pattern) for d in declarations)
        optimizers = context.trace.optimizers
        return context.finding(
            self,
            context.fill(template, parameters, patterns=patterns, cause=outcome.why),
            at=outcome.location,
            parameters=parameters,
            related=[
                *(
                    context.related("the path is cut here too", place)
                    for place in (outcome.cut.later if outcome.cut else ())
                ),
                *context.callers(outcome.site),
                context.related("registered here", parameters[0].registered_by)
                if outcome.kind is OutcomeKind.NOT_IN_OPTIMIZER
                else None,
                context.related("the optimizer is created here", optimizers[0].site) if len(optimizers) == 1 else None,
                *(context.related("declared here", d.location) for d in declarations[:2]),
            ],
            fix=Fix(self._fix(outcome.kind)),
            demoted=outcome.kind is OutcomeKind.UNKNOWN,
        )

    def _fix(self, kind: OutcomeKind) -> str:
        return {
            OutcomeKind.FROZEN: self.FIX_FROZEN,
            OutcomeKind.NO_GRADIENT: self.FIX_NO_GRADIENT,
            OutcomeKind.UNUSED: self.FIX_UNUSED,
            OutcomeKind.NOT_IN_OPTIMIZER: self.FIX_NOT_IN_OPTIMIZER,
            OutcomeKind.ZERO_LR: self.FIX_ZERO_LR,
            OutcomeKind.UNKNOWN: self.FIX_UNKNOWN,
        }[kind]
