"""GL305 parameter-in-two-optimizers."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Optimizer, Rule, Severity


class ParameterInTwoOptimizers(Rule):
    """Two optimizers over the same network, and none over another.

    ## What it does
    Finds two optimizers of one class that hold exactly the same parameters while other trainable parameters of the
    set-up are held by none: the second was meant for those.

    ## Why it is bad
    One network is stepped twice, with two sets of moments, and the other one never.

    ## Example
    ```python
    import torch
    from torch import nn

    class Gan(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.critic = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, z):
            return self.critic(self.generator(z).detach())

    def build():
        model = Gan()
        optimizers = {"g": torch.optim.Adam(model.generator.parameters()),
                      "d": torch.optim.Adam(model.generator.parameters())}
        return {"model": model, "optimizer": optimizers, "step": lambda: None}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Gan(nn.Module):
        def __init__(self):
            super().__init__()
            self.generator, self.critic = nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, z):
            return self.critic(self.generator(z).detach())

    def build():
        model = Gan()
        optimizers = {"g": torch.optim.Adam(model.generator.parameters()),
                      "d": torch.optim.Adam(model.critic.parameters())}
        return {"model": model, "optimizer": optimizers, "step": lambda: None}
    ```

    ## Known limits
    Two optimizers over one network are a method of their own in places (adversarial autoencoders): where every
    trainable parameter has an optimizer, nothing is said.

    ## References
    https://pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
    """

    code = "GL305"
    name = "parameter-in-two-optimizers"
    severity = Severity.WARNING
    needs = frozenset({"optimizer"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        left = [p for p in trace.parameters if p.requires_grad and p.in_tree and not p.groups]
        known: dict[tuple[str, frozenset[int]], Optimizer] = {}
        for optimizer in trace.optimizers:
            first = known.setdefault((optimizer.type, optimizer.keys), optimizer)
            both = [p for p in trace.parameters if p.key in optimizer.keys]
            if first is optimizer or not left or not both:
                continue
            yield context.finding(
                self,
                f"this {optimizer.type} holds what another one holds already, {context.names(both)}, while no "
                f"optimizer holds {context.names(left)}.",
                at=optimizer.site,
                parameters=both,
                related=[context.related("the first one is made here", first.site)],
                fix=Fix("Give the second optimizer the parameters that it is meant for."),
            )
