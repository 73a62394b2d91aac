"""GL502 foreign-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import CrossLossKind, find_cross_loss_gradients, optimizer_label


class ForeignGradient(Rule):
    """Gradient of one loss in parameters that another loss trains.

    ## What it does
    With several optimizers, finds parameters stepped with gradient that the loss for another optimizer accumulated in
    them. A value passed from one network to the other was not detached: a missing `fake.detach()` in a GAN. Or the
    loss passed these parameters on its way to others, and nothing cleared them before their own backward pass. The
    severity is info if both losses meet before either optimizer steps, or if the gradient is cleared unused.

    ## Why it is bad
    The generator takes a step that improves the discriminator, against its own loss. If the gradient is cleared unused,
    a backward pass through a whole network is wasted.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
        g_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
        d_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        z, real = torch.randn(8, 2), torch.randn(8, 4)

        def step():
            g_optimizer.zero_grad()
            d_optimizer.zero_grad()
            fake = generator(z)
            (critic(fake).mean() - critic(real).mean()).backward()
            d_optimizer.step()
            (-critic(generator(z)).mean()).backward()
            g_optimizer.step()

        return {"model": {"generator": generator, "critic": critic},
                "optimizer": {"g": g_optimizer, "d": d_optimizer}, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        generator, critic = nn.Linear(2, 4), nn.Linear(4, 1)
        g_optimizer = torch.optim.SGD(generator.parameters(), lr=0.1)
        d_optimizer = torch.optim.SGD(critic.parameters(), lr=0.1)
        z, real = torch.randn(8, 2), torch.randn(8, 4)

        def step():
            d_optimizer.zero_grad()
            fake = generator(z)
            (critic(fake.detach()).mean() - critic(real).mean()).backward()
            d_optimizer.step()
            g_optimizer.zero_grad()
            (-critic(generator(z)).mean()).backward()
            g_optimizer.step()

        return {"model": {"generator": generator, "critic": critic},
                "optimizer": {"g": g_optimizer, "d": d_optimizer}, "step": step}
    ```

    ## Known limits
    Some gradient must pass through one network to reach another (a generator's loss through the discriminator), and
    accumulates in the former. It is not reported if it is cleared before that network's step.

    ## References
    https://pytorch.org/tutorials/beginner/dcgan_faces_tutorial.html
    """

    code = "GL502"
    name = "foreign-gradient"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    MESSAGE_APPLIED = (
        "through this call, the loss for {owner} also accumulates gradient into {parameters}; {optimizer} then applies "
        "it together with their own gradient."
    )
    MESSAGE_PASSED = (
        "backward() of the loss for {owner} also leaves gradient in {parameters}: nothing clears it, and {optimizer} "
        "applies it together with their own."
    )
    MESSAGE_JOINED = (
        "through this call, the loss for {owner} also accumulates gradient into {parameters}; {optimizer} is then "
        "stepped with the sum of both losses."
    )
    MESSAGE_WASTED = (
        "through this call, the loss for {owner} also accumulates gradient into {parameters}; no step applies it "
        "before it is cleared."
    )
    FIX = "Detach the value passed to the other network here (fake.detach()), or clear the gradient before the step."
    FIX_PASSED = (
        "Call zero_grad() on these parameters before the backward() of their own loss, or freeze them while this one "
        "runs."
    )
    FIX_JOINED = "Call step() and zero_grad() before the second backward(), or freeze these parameters while it runs."

    def check(self, context: Context) -> Iterator[Finding]:
        templates = {
            CrossLossKind.APPLIED: self.MESSAGE_APPLIED,
            CrossLossKind.PASSED: self.MESSAGE_PASSED,
            CrossLossKind.JOINED: self.MESSAGE_JOINED,
            CrossLossKind.WASTED: self.MESSAGE_WASTED,
        }
        fixes = {CrossLossKind.PASSED: self.FIX_PASSED, CrossLossKind.JOINED: self.FIX_JOINED}
        for foreign in find_cross_loss_gradients(context.flow):
            yield context.finding(
                self,
                templates[foreign.kind].format(
                    owner=optimizer_label(foreign.owner),
                    parameters=context.names(foreign.parameters),
                    optimizer=optimizer_label(foreign.optimizer),
                ),
                at=foreign.entry,
                parameters=foreign.parameters,
                related=[
                    context.related("this backward() computes the gradient", foreign.backward.site),
                    context.related("this step applies it", foreign.step.site if foreign.step is not None else None),
                    context.created(foreign.optimizer),
                ],
                fix=Fix(fixes.get(foreign.kind, self.FIX)),
                demoted=foreign.kind not in (CrossLossKind.APPLIED, CrossLossKind.PASSED),
            )
