"""GL411 missing-create-graph."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity
from gradlint.flow import CutKind
from gradlint.traces import SiteId


class MissingCreateGraph(Rule):
    """A loss on a gradient that cannot be differentiated.

    ## What it does
    Finds loss terms computed from the result of `torch.autograd.grad` without `create_graph=True`. Also finds
    parameters whose only path to the loss leads through that result.

    ## Why it is bad
    Without create_graph the gradient is a constant: the penalty appears in the loss and never changes an update.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
        x = torch.randn(6, 4, requires_grad=True)
        def loss(out):
            (slope,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
            return out.mean() + (slope.norm(dim=1) - 1).square().mean()
        return {"model": model, "inputs": (x,), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1, bias=False))
        x = torch.randn(6, 4, requires_grad=True)
        def loss(out):
            (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
            return out.mean() + (slope.norm(dim=1) - 1).square().mean()
        return {"model": model, "inputs": (x,), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    The forward and the loss are analyzed, not a training step in user code. Not reported if the gradient is a factor
    (adaptive weights). Not reported if later operations have a gradient of their own (first-order meta-learning).

    ## References
    https://pytorch.org/docs/stable/generated/torch.autograd.grad.html (create_graph)
    """

    code = "GL411"
    name = "missing-create-graph"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE_CUT = (
        "without create_graph=True, the result of autograd.grad is constant and cuts the only gradient path to "
        "{parameters}."
    )
    MESSAGE_TERM = (
        "without create_graph=True, the result of autograd.grad is constant: the loss term computed from it does not "
        "train {parameters}."
    )
    FIX = "Pass create_graph=True to torch.autograd.grad."

    def check(self, context: Context) -> Iterator[Finding]:
        for cut in context.flow.cuts:
            if cut.kind is CutKind.GRADIENT and cut.relabelled is None:
                yield self._finding(context, self.MESSAGE_CUT, cut.site, cut.starved)
        for term in context.flow.constant_terms:
            if term.cuts[0].kind is CutKind.GRADIENT and term.relabelled is None:
                yield self._finding(context, self.MESSAGE_TERM, term.cuts[0].site, term.parameters, term.site)

    def _finding(
        self, context: Context, message: str, site: SiteId, parameters: list[Parameter], term_site: SiteId | None = None
    ) -> Finding:
        return context.finding(
            self,
            message.format(parameters=context.names(parameters)),
            at=site,
            parameters=parameters,
            related=[context.related("the term is computed here", term_site), *context.callers(site)],
            fix=Fix(self.FIX),
        )
