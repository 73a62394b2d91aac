"""GL502 foreign-gradient."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Leak, Rule, Severity, find_leaks


class ForeignGradient(Rule):
    """Gradient of one loss in parameters that another loss trains.

    ## What it does
    With several optimizers, finds parameters stepped with gradient that the loss for another optimizer accumulated in
    them. A value passed from one network to the other was not detached: a missing `fake.detach()` in a GAN. The
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

    def check(self, context: Context) -> Iterator[Finding]:
        for leak in find_leaks(context.flow):
            names = context.names(leak.parameters)
            yield context.finding(
                self,
                _MESSAGES[leak.kind].format(names=names, owner=leak.owner.type),
                at=leak.entry,
                parameters=leak.parameters,
                related=[
                    context.related("the gradient comes from this backward", leak.backward.site),
                    context.related("stepped here", leak.step.site) if leak.step is not None else None,
                    context.related(f"{leak.optimizer.type} is made here", leak.optimizer.site),
                ],
                fix=_fix(leak),
                severity=Severity.WARNING if leak.kind == "applied" else Severity.INFO,
            )


_MESSAGES = {
    "applied": "the backward of the loss that {owner} was stepped for goes on from here into {names}, and its gradient "
    "is still there when they are stepped for a loss of their own.",
    "joined": "a second loss leaves gradient in {names} before they are stepped, on its way to the parameters that it "
    "is made for: they are stepped for both.",
    "wasted": "the backward of a loss that trains other parameters goes on from here into {names}; that gradient is "
    "cleared unused.",
}


def _fix(leak: Leak) -> Fix:
    if leak.kind == "joined":
        return Fix("Step and clear before the second backward, or freeze these parameters while it runs.")
    return Fix("Detach what is given to the other network here (fake.detach()), or clear the gradient before the step.")
