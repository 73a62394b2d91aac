"""GL406 loss-without-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import GRADIENT, NONDIFFERENTIABLE, Context, Finding, Fix, Rule, Severity


class LossWithoutGradient(Rule):
    """The loss does not require grad.

    ## What it does
    Finds losses on which `backward()` would fail, and reports the cause. Every parameter is frozen, every gradient path
    is cut, or the loss depends on no parameter. The finding replaces those of GL401 to GL405 on the same training
    setup.

    ## Why it is bad
    `backward()` raises "element 0 of tensors does not require grad". If that error was silenced by hand, nothing
    trains.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 2)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: (out.argmax(-1) != 0).float().mean()}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Linear(4, 2)
        return {"model": model, "inputs": (torch.randn(2, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
                "loss": lambda out: nn.functional.cross_entropy(out, torch.zeros(2, dtype=torch.long))}
    ```

    ## Known limits
    A completely frozen model without an optimizer is not reported, since it is not meant to train.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.backward.html
    """

    code = "GL406"
    name = "loss-without-gradient"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        if not flow.loss_lacks_gradient or trace.left_off:
            return  # a grad mode that was left off is GL106's
        lacks = "the loss does not require grad" if trace.loss_given else "no output requires grad"
        starved = [p for cut in flow.cuts for p in cut.starved]
        if starved:
            # what has no gradient by nature (a sampled action) is rarely what the user can change
            cut = next((c for c in flow.cuts if c.kind != NONDIFFERENTIABLE), flow.cuts[0])
            inner = cut.kind == GRADIENT
            by = "autograd.grad without create_graph=True" if inner else cut.name
            advice = "Compute the loss by differentiable operations with grad mode on."
            yield context.finding(
                self,
                f"{lacks}: every way back is cut, here by {by}, before the gradient reaches {context.names(starved)}.",
                at=cut.location,
                parameters=starved,
                related=[
                    *(context.related(f"cut here too, by {c.name}", c.location) for c in flow.cuts[:4]),
                    context.related("the loss", self._loss_site(context)),
                    *context.callers(cut.site),
                ],
                fix=Fix("Pass create_graph=True to torch.autograd.grad." if inner else advice),
            )
            return
        mine = [p for p in trace.parameters if p.in_tree]
        trainable = [p for p in mine if p.requires_grad]
        if trainable:
            yield context.finding(
                self,
                f"{lacks}, and does not depend on any of {context.names(trainable)}.",
                at=self._loss_site(context),
                parameters=trainable,
                fix=Fix("Compute the loss from the model's output."),
            )
        elif any(p.groups for p in mine):
            freeze = next((e for p in mine if (e := p.frozen_by)), None)
            yield context.finding(
                self,
                f"{lacks}: every parameter is frozen, {context.names(mine)}.",
                at=trace.optimizers[0].site,
                parameters=mine,
                related=[context.related("frozen here", freeze)],
                fix=Fix("Leave something to train: unfreeze a part, or add a head."),
            )

    def _loss_site(self, context: Context) -> int:
        trace = context.trace
        return next((op.site for root in trace.roots if (op := trace.made_by(root))), -1)
