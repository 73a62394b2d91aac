"""GL705 marked-gradient-contradicted."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import ContradictedMark, contradicted_marks


class MarkedGradientContradicted(Rule):
    """A value whose gradient is not as user code marks it.

    ## What it does
    Compares the markers `gradlint.constant(value)` and `gradlint.differentiable(value)` with the recording. Finds
    constant values through which gradient reaches trainable parameters, and differentiable values through which no
    gradient passes although the loss depends on them.

    ## Why it is bad
    Whether a target, an advantage or a weight is to carry gradient is a decision. Both versions train, so no recording
    shows which one is meant.

    ## Example
    ```python
    import torch
    from torch import nn
    import gradlint

    def build():
        critic = nn.Linear(4, 1)
        now, later, reward = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 1)
        def loss(values):
            target = gradlint.constant(reward + 0.9 * critic(later))
            return nn.functional.mse_loss(values, target)
        return {"model": critic, "inputs": (now,), "loss": loss,
                "optimizer": torch.optim.SGD(critic.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn
    import gradlint

    def build():
        critic = nn.Linear(4, 1)
        now, later, reward = torch.randn(6, 4), torch.randn(6, 4), torch.randn(6, 1)
        def loss(values):
            target = gradlint.constant((reward + 0.9 * critic(later)).detach())
            return nn.functional.mse_loss(values, target)
        return {"model": critic, "inputs": (now,), "loss": loss,
                "optimizer": torch.optim.SGD(critic.parameters(), lr=0.1)}
    ```

    ## Known limits
    A mark holds for the uses of the tensor after it. A line that marks a differentiable value in several passes needs
    gradient in one of them. Marks inside of compiled or scripted code, and in other threads, are not seen.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.detach.html
    """

    code = "GL705"
    name = "marked-gradient-contradicted"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss", "gradient"})

    MESSAGE_CONSTANT = "this value is marked as constant, but gradient passes through it to {parameters}."
    MESSAGE_CUT = "this value is marked as differentiable, but {clause}: no gradient reaches {parameters} through it."
    MESSAGE_INPUT = "this value is marked as differentiable, but {clause}: no gradient returns to it."
    MESSAGE_FROZEN = "this value is marked as differentiable, but {parameters}, which it depends on, {are} frozen."
    MESSAGE_LEAF = "this value is marked as differentiable, but nothing that it is computed from requires grad."
    RELATED_CUT = "the gradient path is cut here"
    FIX_CONSTANT = "Detach the value before it is marked: gradlint.constant(value.detach())."
    FIX_DIFFERENTIABLE = "Remove the cut, or the mark gradlint.differentiable() if the value is to be constant."

    def check(self, context: Context) -> Iterator[Finding]:
        for mark in contradicted_marks(context.flow):
            yield context.finding(
                self,
                self._message(context, mark),
                at=mark.site,
                parameters=mark.parameters,
                related=[
                    context.related(self.RELATED_CUT, mark.cut.location if mark.cut is not None else None),
                    *context.callers(mark.site),
                ],
                fix=Fix(self.FIX_CONSTANT if mark.constant else self.FIX_DIFFERENTIABLE),
            )

    def _message(self, context: Context, mark: ContradictedMark) -> str:
        if mark.constant:
            return context.fill(self.MESSAGE_CONSTANT, mark.parameters)
        if mark.cut is not None:
            template = self.MESSAGE_CUT if mark.parameters else self.MESSAGE_INPUT
            return context.fill(template, mark.parameters, clause=mark.cut.clause)
        return context.fill(self.MESSAGE_FROZEN, mark.parameters) if mark.parameters else self.MESSAGE_LEAF
