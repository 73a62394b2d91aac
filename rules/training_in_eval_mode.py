"""GL505 training-in-eval-mode."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Module, Rule, Severity, Step, Trace, Training


class TrainingInEvalMode(Rule):
    """A training step while the whole model is in eval mode.

    ## What it does
    Finds optimizer steps whose forward ran with the whole model in eval mode. Only models with layers that depend on
    the mode (dropout, batch norm) are considered. The finding is at the `eval()` call.

    ## Why it is bad
    `train()` was forgotten after a validation or a sample. For the rest of the training, dropout is off and batch norm
    uses its old statistics without updating them.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def validate():
            model.eval()
            with torch.no_grad():
                return model(x)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            validate()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def validate():
            model.eval()
            with torch.no_grad():
                return model(x)

        def step():
            model.train()
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            validate()

        return {"model": model, "inputs": (x,), "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Custom layers that read `self.training` are not recognized. Not reported if the setup declares `train: False`, or if
    only part of the model is in eval mode.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
    """

    code = "GL505"
    name = "training-in-eval-mode"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        training = trace.training
        assert training is not None
        if trace.setup.train is False:
            return
        roots = [m for m in trace.modules if m.parent < 0]
        for root in roots:
            for step in training.steps:
                sensitive = _in_eval(context, training, root, step)
                if sensitive:
                    yield self._finding(context, root, step, sensitive)
                    break

    def _finding(self, context: Context, root: Module, step: Step, sensitive: list[Module]) -> Finding:
        trace = context.trace
        held = {i for m in sensitive for i in m.parameters}
        parameters = [trace.parameters[i] for i in sorted(held)] or [
            p for p in trace.below(root) if p.key in step.content
        ]
        switch = _switch(context, root, step)
        kinds = " and ".join(sorted({m.type.name for m in sensitive}))
        whole = root.fqn or "the model"
        return context.finding(
            self,
            f"{whole} is in eval mode when it is trained, without the training behaviour of {kinds}.",
            at=switch.site if switch is not None else step.site,
            parameters=parameters,
            related=[context.related("stepped here, still in eval mode", step.site)],
            fix=Fix("Call train() before the training goes on."),
        )


def _in_eval(context: Context, training: Training, root: Module, step: Step) -> list[Module]:
    """The mode-sensitive modules that ran for a step, where they and all others of their root were in eval mode."""
    trace = context.trace
    used = [training.backwards[b] for c in step.content.values() for b in c.backwards]
    mine = {p.key for p in trace.below(root)}
    if not used or mine.isdisjoint(step.content):
        return []
    last = max(used, key=lambda b: b.event)
    earlier = [b.op for b in training.backwards if b.event < min(u.event for u in used)]
    begin = max([training.start, *earlier])
    numbers = {m.number for m in trace.modules if _below(trace.modules, m, root)}
    found: dict[int, Module] = {}
    for number in _trained(trace, begin, last.op):
        call = trace.calls[number]
        if call.module in numbers:
            if call.training:
                return []
            if _sensitive(trace.modules[call.module]):
                found[call.module] = trace.modules[call.module]
    return list(found.values())


def _trained(trace: Trace, begin: int, end: int) -> list[int]:
    """The module calls of a part of a recording that ran something with grad mode on, and those in them that did
    nothing, as a layer that leaves out others does in eval mode."""
    ops = range(begin, end)
    ran = _around(trace, {trace.ops[n].call for n in ops})
    found = _around(trace, {trace.ops[n].call for n in ops if trace.ops[n].region < 0})
    for number, call in enumerate(trace.calls):
        if call.parent in found and number not in ran:
            found.add(number)
    return sorted(found)


def _around(trace: Trace, calls: set[int]) -> set[int]:
    """Some module calls, and those that they ran in."""
    found: set[int] = set()
    for number in calls:
        while number >= 0:
            found.add(number)
            number = trace.calls[number].parent
    return found


def _below(modules: list[Module], module: Module, root: Module) -> bool:
    while module.number != root.number:
        if module.parent < 0:
            return False
        module = modules[module.parent]
    return True


def _sensitive(module: Module) -> bool:
    """Return True if a layer behaves otherwise in training."""
    is_norm = "_BatchNorm" in module.type.bases and "running_mean" in module.running_stats
    return is_norm or module.is_active_dropout or module.has_recurrent_dropout


def _switch(context: Context, root: Module, step: Step) -> Event | None:
    """The last switch of the whole root before a step, which put it in eval mode."""
    switches = [e for e in context.trace.events_of("mode") if e.data["module"] == root.number and e.number < step.event]
    return switches[-1] if switches else None
