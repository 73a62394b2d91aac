"""GL406 loss-without-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, Trace
from gradlint.flow import CutKind
from gradlint.traces import SiteId


class LossWithoutGradient(Rule):
    """The loss does not require grad.

    ## What it does
    Finds losses on which `backward()` would fail, and reports the cause: every gradient path is cut, or the loss
    depends on no parameter. The finding replaces those of GL401 to GL405 on the same training setup.

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
    A completely frozen model is reported by GL308 if it is given an optimizer. Without one it is not meant to train.

    ## References
    https://pytorch.org/docs/stable/generated/torch.Tensor.backward.html
    """

    code = "GL406"
    name = "loss-without-gradient"
    severity = Severity.ERROR
    needs = frozenset({"forward", "loss"})

    MESSAGE_CUT = "{loss} does not require grad: every gradient path to {parameters} is cut, here by {call}."
    MESSAGE_INDEPENDENT = "{loss} does not require grad: it depends on none of {parameters}."
    FIX_CUT = (
        "Compute the loss with differentiable operations and grad mode on: no .detach(), .item() or "
        "torch.no_grad() on the way."
    )
    FIX_CREATE_GRAPH = "Pass create_graph=True to torch.autograd.grad."
    FIX_INDEPENDENT = "Compute the loss from the model's output."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, flow = context.trace, context.flow
        if not flow.loss_lacks_gradient or trace.grad_off_leaked:
            return
        loss = "the loss" if trace.loss_given else "the output"
        parameters = [p for p in trace.parameters if p.in_tree]
        trainable = [p for p in parameters if p.requires_grad]
        if any(cut.starved for cut in flow.cuts):
            yield self._cut(context, loss)
        elif trainable:
            yield context.finding(
                self,
                self.MESSAGE_INDEPENDENT.format(loss=loss, parameters=context.names(trainable)),
                at=_loss_site(trace),
                parameters=trainable,
                fix=Fix(self.FIX_INDEPENDENT),
            )

    def _cut(self, context: Context, loss: str) -> Finding:
        cuts = context.flow.cuts
        parameters = [p for cut in cuts for p in cut.starved]
        # an operation without a gradient by nature (a sampled action) is rarely a line that the user can change
        cut = next((c for c in cuts if c.kind is not CutKind.NONDIFFERENTIABLE), cuts[0])
        without_graph = cut.kind is CutKind.GRADIENT
        call = "autograd.grad without create_graph=True" if without_graph else cut.name
        return context.finding(
            self,
            self.MESSAGE_CUT.format(loss=loss, parameters=context.names(parameters), call=call),
            at=cut.location,
            parameters=parameters,
            related=[
                *(context.related(f"cut here too, by {c.name}", c.location) for c in cuts[:4]),
                context.related("the loss is computed here", _loss_site(context.trace)),
                *context.callers(cut.site),
            ],
            fix=Fix(self.FIX_CREATE_GRAPH if without_graph else self.FIX_CUT),
        )


def _loss_site(trace: Trace) -> SiteId | None:
    return next((op.site for root in trace.roots if (op := trace.made_by(root))), None)
