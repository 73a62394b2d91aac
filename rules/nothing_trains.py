"""GL308 nothing-trains."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Parameter, Related, Rule, Severity
from gradlint.flow import FrozenOptimizer, optimizer_label
from gradlint.rulekit import DeclarationKind


class NothingTrains(Rule):
    """An optimizer that trains nothing, because all its parameters are frozen.

    ## What it does
    Finds optimizers that contain frozen parameters only, or none because the whole model was frozen before. The finding
    is at the last line that froze them. It does not matter what else requires grad: an input, a prompt, the hook that
    gradient checkpointing puts on the embeddings.

    ## Why it is bad
    Training runs without an error and changes nothing. `backward()` raises only if nothing at all requires grad.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model.requires_grad_(False)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(6, 4, requires_grad=True)

        def step():
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(model[2].parameters(), lr=0.1)
        x = torch.randn(6, 4, requires_grad=True)

        def step():
            optimizer.zero_grad()
            model(x).mean().backward()
            optimizer.step()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Not reported: an optimizer that holds another tensor that requires grad (an image, a latent), and one that moves its
    parameters without gradient (an average). Copies of a trainable network and parameters that a contract declares
    frozen are meant to stay. In recorded steps, only optimizers that step are judged. Without steps, an optimizer is
    left to GL301 if the loss trains another one: its turn may come later.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#setting-requires-grad
    """

    code = "GL308"
    name = "nothing-trains"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})

    MESSAGE = "{optimizer} trains nothing: it contains only frozen parameters, {parameters}."
    MESSAGE_EMPTY = "{optimizer} trains nothing: it is empty, and the whole model is frozen, {parameters}."
    RELATED_FROZEN = "frozen here too"
    RELATED_CALLED = "frozen from here"
    FIX = "Drop this freeze, or call requires_grad_(True) on what should train before the optimizer is created."
    FIX_BORN = "Give the optimizer parameters that require grad."

    def check(self, context: Context) -> Iterator[Finding]:
        for frozen in context.flow.frozen_optimizers:
            if not all(_is_meant(context, p) for p in frozen.parameters):
                yield self._finding(context, frozen)

    def _finding(self, context: Context, frozen: FrozenOptimizer) -> Finding:
        optimizer, parameters = frozen.optimizer, frozen.parameters
        freezes = {e.number: e for p in parameters if (e := p.frozen_by) is not None}
        last = freezes[max(freezes)] if freezes else None
        places: dict[Location | None, Related | None] = {}
        for event in freezes.values():
            places.setdefault(context.trace.location(event.site), context.related(self.RELATED_FROZEN, event))
        return context.finding(
            self,
            (self.MESSAGE if optimizer.keys else self.MESSAGE_EMPTY).format(
                optimizer=optimizer_label(optimizer), parameters=context.names(parameters)
            ),
            at=optimizer.site if last is None else last.site,
            parameters=parameters,
            related=[
                *list(places.values())[:3],
                *([] if last is None else context.callers(last.site, self.RELATED_CALLED, 1)),
                context.created(optimizer),
            ],
            fix=Fix(self.FIX_BORN if last is None else self.FIX),
        )


def _is_meant(context: Context, parameter: Parameter) -> bool:
    """Return True if a contract declares a parameter frozen, or it is a copy of one that trains."""
    declared = context.contract.of.get(parameter.fqn)
    if declared is not None and declared.kind is DeclarationKind.FROZEN:
        return True
    return parameter.written or context.trace.has_trainable_twin(parameter)
