"""GL611 loss-term-without-model."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import find_untrained_terms


class LossTermWithoutModel(Rule):
    """A term of the loss that is computed from a network that does not train.

    ## What it does
    Splits the scalar loss into its terms, through sums, differences and constant factors. Finds criteria, such as
    `mse_loss` and `cross_entropy`, both of whose operands come from frozen networks and data, beside terms that train.
    It is an info if trained layers use results of these networks, or if both operands are data.

    ## Why it is bad
    The term changes the printed loss and no update. Often it was meant for the network that trains: the labels are
    compared with the teacher's output instead of the student's.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        student, teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        x, y = torch.randn(6, 4), torch.arange(6) % 3
        def loss(out):
            guide = teacher(x)
            return nn.functional.mse_loss(out, guide) + nn.functional.cross_entropy(guide, y)
        return {"model": student, "inputs": (x,), "loss": loss,
                "optimizer": torch.optim.SGD(student.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        student, teacher = nn.Linear(4, 3), nn.Linear(4, 3).requires_grad_(False)
        x, y = torch.randn(6, 4), torch.arange(6) % 3
        def loss(out):
            guide = teacher(x)
            return nn.functional.mse_loss(out, guide) + nn.functional.cross_entropy(out, y)
        return {"model": student, "inputs": (x,), "loss": loss,
                "optimizer": torch.optim.SGD(student.parameters(), lr=0.1)}
    ```

    ## Known limits
    Not reported: a term that is written by hand, such as a penalty on frozen weights. Not reported: a baseline that is
    subtracted, or a weight that is 0 or a tensor of its own. Terms of trained parameters without gradient belong to
    the rule about constant terms.

    ## References
    https://arxiv.org/abs/1503.02531 (distillation: the student's loss against the labels and the teacher)
    """

    code = "GL611"
    name = "loss-term-without-model"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss"})
    names_parameters = False

    MESSAGE = "{loss} depends on {parameters} alone, and nothing trains {them}: the term changes no update."
    MESSAGE_DATA = "{loss} depends on data alone: the term changes no update."
    FIX = "Pass the output of the network that trains. If the term is only monitored, log it beside the loss."

    def check(self, context: Context) -> Iterator[Finding]:
        for (site, _), terms in context.by_place(find_untrained_terms(context.flow), lambda t: (t.op.site, t.op.name)):
            parameters = context.flow.by_index({p.index for term in terms for p in term.parameters})
            message = self.MESSAGE if parameters else self.MESSAGE_DATA
            yield context.finding(
                self,
                context.fill(message, parameters, loss=terms[0].op.name),
                at=site,
                parameters=parameters,
                related=context.callers(site),
                demoted=not parameters or any(term.feeds_trained for term in terms),
                fix=Fix(self.FIX),
            )
