"""GL409 constant-loss-term."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import ConstantTerm, CutKind, find_cancelled_terms


class ConstantLossTerm(Rule):
    """A term of the loss that trains nothing.

    ## What it does
    Splits the scalar loss into its terms, through sums, differences and constant factors. Finds terms computed from
    trainable parameters that carry no gradient: detached, computed under no_grad, or returned by a non-differentiable
    operation. The last is an info, because a count may be added only to be seen. It is a warning if the count has a
    weight of its own. It is a warning too if the gradient of a term cancels, because a difference on its only path
    subtracts what it adds: `x - (x + (q - x).detach())`.

    ## Why it is bad
    The term appears in the printed loss and its weight can be tuned, but neither changes an update.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        def loss(out):
            total = nn.functional.cross_entropy(out, torch.arange(6) % 3)
            total = total + 0.1 * out.abs().mean().detach()
            return total
        return {"model": model, "inputs": (torch.randn(6, 4),), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 3)
        def loss(out):
            total = nn.functional.cross_entropy(out, torch.arange(6) % 3)
            total = total + 0.1 * out.abs().mean()
            return total
        return {"model": model, "inputs": (torch.randn(6, 4),), "loss": loss,
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    ```

    ## Known limits
    A loss is taken apart through sums, differences and constant factors. This goes on below a `mean()` or `sum()` that
    is written in the same forward. Not reported: a term whose weight is 0, or a tensor that no term with gradient has.
    Not reported: the pattern `s + (m - s).detach()`, and the maximum that a log-sum-exp takes out. Not reported: an
    earlier result with which the same computation is compared. A cut that leaves parameters without any gradient is
    reported by the rule for that cut instead. For a term that became a Python number (`.item()`), gradlint changes the
    parameters and checks whether the number changes.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html
    """

    code = "GL409"
    name = "constant-loss-term"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    MESSAGE = "{call} makes {terms} of the loss constant: {they} not train {parameters}."
    MESSAGE_CANCELLED = (
        "this difference subtracts the values that it adds, so their gradients cancel: {terms} of the loss {they} not "
        "train {parameters}."
    )
    RELATED = "the term is computed here"
    FIX_CANCELLED = "Detach the operand that carries the straight-through gradient: residual - quantized.detach()."
    FIX = (
        "Keep the term's gradient: no .detach(), .item() or torch.no_grad() on its way. If it is only "
        "monitored, log it and leave it out of the loss."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        for term in context.flow.constant_terms:
            cut = term.cuts[0]
            if cut.kind is CutKind.GRADIENT or term.relabelled is not None:
                continue
            yield context.finding(
                self,
                self.MESSAGE.format(
                    call=_CALLS.get(cut.name, cut.name),
                    terms="a term" if term.count == 1 else f"{term.count} terms",
                    they="it does" if term.count == 1 else "they do",
                    parameters=context.names(term.parameters),
                ),
                at=cut.location,
                parameters=term.parameters,
                related=[
                    *(context.related("the gradient path is cut here too", c.location) for c in term.cuts[1:4]),
                    context.related(self.RELATED, term.site),
                    *context.callers(cut.site),
                ],
                severity=_severity(term),
                fix=Fix(self.FIX),
            )
        for site, members in context.by_place(find_cancelled_terms(context.flow), lambda term: term.difference.site):
            parameters = list({p.index: p for term in members for p in term.parameters}.values())
            count = max(Counter(term.loss for term in members).values())
            yield context.finding(
                self,
                self.MESSAGE_CANCELLED.format(
                    terms="a term" if count == 1 else f"{count} terms",
                    they="does" if count == 1 else "do",
                    parameters=context.names(parameters),
                ),
                at=site,
                parameters=parameters,
                related=[context.related(self.RELATED, members[0].site), *context.callers(site)],
                severity=Severity.WARNING,
                fix=Fix(self.FIX_CANCELLED),
            )


def _severity(term: ConstantTerm) -> Severity:
    """Return the severity: info for counts that may be added only to be seen.

    The number of steps of adaptive computation time is such a count. A weight of
    their own says that they are meant to change what is learned: a warning.
    """
    if any(c.kind is not CutKind.NONDIFFERENTIABLE for c in term.cuts):
        return Severity.ERROR
    return Severity.WARNING if term.weighted else Severity.INFO


_CALLS = {
    "detach": "detach()",
    "detach_": "detach_()",
    "item": ".item()",
    "tolist": ".tolist()",
    "__float__": "float()",
    "tensor": "torch.tensor()",
}
"""Names of operations → the calls that users write, where they differ."""
