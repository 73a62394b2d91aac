"""GL107 layer-created-in-forward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity
from gradlint.rulekit import inflect, summarize_names, variable_of


class LayerCreatedInForward(Rule):
    """A layer that every forward creates again.

    ## What it does
    Finds parameters that the forward creates, that the loss depends on, and that a second forward creates again.

    ## Why it is bad
    Each batch passes through new random weights. No optimizer contains them, and they are lost when the forward ends.

    ## Example
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(nn.Linear(x.shape[1], 8)(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.proj = nn.Linear(4, 8)
            self.head = nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.proj(x))

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Lazy modules, layers that are created once, and frozen constants are not reported. Parameters with a value copied
    from others are not reported either (copies for an inner loop).

    ## References
    https://pytorch.org/docs/stable/notes/modules.html
    """

    code = "GL107"
    name = "layer-created-in-forward"
    severity = Severity.ERROR
    names_parameters = False
    needs = frozenset({"forward", "loss"})

    MESSAGE = "every forward creates {parameters} again: no optimizer can train {them}."
    RELATED = "the forward is called here"
    FIX = "Create the layer once, in __init__."

    def check(self, context: Context) -> Iterator[Finding]:
        recreated = context.flow.by_index(context.trace.recreated & context.flow.reached)
        created = [p for p in recreated if not _is_copy(context, p)]
        for _, copies in context.by_place(created, lambda p: context.trace.location(p.history[0].site)):
            parameters = _of_one_forward(copies)
            site = parameters[0].history[0].site
            variable = variable_of(context.trace, site)
            renamed = [_called(p, variable) for p in parameters] if variable else parameters
            names = summarize_names(renamed, [*context.trace.parameters, *renamed])
            yield context.finding(
                self,
                self.MESSAGE.format(parameters=names, them=inflect(parameters, "them")),
                at=site,
                parameters=[p for p in parameters if p.in_tree],
                named=[p.fqn for p in renamed if not p.in_tree],
                related=context.callers(site, self.RELATED, 1),
                fix=Fix(self.FIX),
                demoted=not context.by_user(site),
            )


def _of_one_forward(copies: list[Parameter]) -> list[Parameter]:
    """Return the parameters of a line that are in the model, else one of each name.

    Each forward creates the others again.
    """
    return [p for p in copies if p.in_tree] or list({p.fqn: p for p in reversed(copies)}.values())[::-1]


def _called(parameter: Parameter, variable: str) -> Parameter:
    """Return a parameter outside the model under the name of its layer's variable."""
    if parameter.in_tree:
        return parameter
    _, _, below = parameter.fqn.partition(".")
    return replace(parameter, fqn=f"{variable}.{below}")


def _is_copy(context: Context, parameter: Parameter) -> bool:
    """Return True if the value of a parameter is copied from other parameters."""
    data = context.flow.masks.data
    others = ~(1 << parameter.index)
    sources = [v for write in parameter.writes for v in write.sources]
    return bool(parameter.copied_from) or any(data.get(v, 0) & others for v in sources)
