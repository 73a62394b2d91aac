"""GL305 parameter-in-two-optimizers."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Optimizer, Rule, Severity


class ParameterInTwoOptimizers(Rule):
    """Two optimizers for the same network, and none for another.

    ## What it does
    Finds two optimizers of one class with exactly the same parameters, while other trainable parameters are in no
    optimizer. The second one was meant for those. An error if gradient reaches them, else a warning.

    ## Why it is bad
    One network is stepped twice, with two sets of moments, and the other one never.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(generator.parameters())

        def train(optimizer, loss):
            optimizer.zero_grad()
            loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()

        def step():
            train(for_critic, (critic(generator(torch.randn(3, 2))) - critic(torch.randn(3, 4))).mean())
            train(for_generator, -critic(generator(torch.randn(3, 2))).mean())

        model = nn.ModuleDict({"generator": generator, "critic": critic})
        return {"model": model, "optimizer": [for_generator, for_critic], "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
        for_generator = torch.optim.Adam(generator.parameters())
        for_critic = torch.optim.Adam(critic.parameters())

        def train(optimizer, loss):
            optimizer.zero_grad()
            loss.backward(inputs=[p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()

        def step():
            train(for_critic, (critic(generator(torch.randn(3, 2))) - critic(torch.randn(3, 4))).mean())
            train(for_generator, -critic(generator(torch.randn(3, 2))).mean())

        model = nn.ModuleDict({"generator": generator, "critic": critic})
        return {"model": model, "optimizer": [for_generator, for_critic], "step": step}
    ```

    ## Known limits
    Not reported if all trainable parameters in train mode are in an optimizer: some methods use two optimizers for one
    network (adversarial autoencoders).

    ## References
    https://pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
    """

    code = "GL305"
    name = "parameter-in-two-optimizers"
    severity = Severity.WARNING
    needs = frozenset({"optimizer"})

    MESSAGE = "this {optimizer} and an earlier optimizer both contain {both}, while {parameters} {are} in no optimizer."
    RELATED = "the earlier optimizer is created here"
    FIX = "Give the second optimizer the parameters that it is meant for, for example critic.parameters()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        free = [p for p in trace.parameters if p.requires_grad and p.in_tree and not p.groups]
        missing = [p for p in free if trace.modules[p.module].training]  # a network in eval mode serves the loss
        firsts: dict[tuple[str, frozenset[int]], Optimizer] = {}
        for optimizer in trace.optimizers:
            first = firsts.setdefault((optimizer.type, optimizer.keys), optimizer)
            both = trace.with_keys(optimizer.keys)
            if first is optimizer or not missing or not both:
                continue
            gets_gradient = any(p.index in context.flow.reached for p in missing)
            yield context.finding(
                self,
                context.fill(self.MESSAGE, missing, optimizer=optimizer.type, both=context.names(both)),
                at=optimizer.site,
                parameters=[*both, *missing],
                related=[context.related(self.RELATED, first.site)],
                fix=Fix(self.FIX),
                severity=Severity.ERROR if gets_gradient else None,
            )
