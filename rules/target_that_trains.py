"""GL414 target-that-trains."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Op, Optimizer, Parameter, Rule, Severity
from gradlint.rulekit import find_targeted_losses, list_of
from gradlint.traces import ModeSwitch, ParameterIndex

_LOSSES = frozenset(
    "mse_loss l1_loss smooth_l1_loss huber_loss kl_div cross_entropy binary_cross_entropy "
    "binary_cross_entropy_with_logits".split()
)


class TargetThatTrains(Rule):
    """A network in eval mode that gives the targets of a loss, and that the loss trains.

    ## What it does
    Finds networks that user code put in eval mode while the rest trains. Their output is the target of a loss and
    requires grad, and the optimizer of what the loss trains holds them too.

    ## Why it is bad
    `eval()` freezes nothing. The loss falls fastest if the teacher moves toward the student: the targets lose what the
    teacher had learned.

    ## Example
    ```python
    import torch
    from torch import nn

    class Distillation(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
            self.student = nn.Linear(4, 2)

        def forward(self, x):
            return nn.functional.mse_loss(self.student(x), self.teacher(x))

    def build():
        model = Distillation()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.parameters(), lr=0.1), "loss": lambda out: out}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Distillation(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval().requires_grad_(False)
            self.student = nn.Linear(4, 2)

        def forward(self, x):
            return nn.functional.mse_loss(self.student(x), self.teacher(x))

    def build():
        model = Distillation()
        return {"model": model, "inputs": (torch.randn(6, 4),),
                "optimizer": torch.optim.SGD(model.student.parameters(), lr=0.1), "loss": lambda out: out}
    ```

    ## Known limits
    Not reported without an `eval()` in user code, or if the network has an optimizer of its own. Not reported if the
    input of the loss depends on it too. Losses that are written out by hand are not judged.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#evaluation-mode-nn-module-eval
    """

    code = "GL414"
    name = "target-that-trains"
    severity = Severity.WARNING
    needs = frozenset({"forward", "loss", "gradient", "optimizer"})

    MESSAGE = (
        "{optimizer} trains {network}, which is in eval mode and gives the target of {loss}: the gradient moves "
        "{parameters} toward the input of the loss."
    )
    RELATED_EVAL = "eval() is called here"
    RELATED_LOSS = "{network} gives the target here"
    FIX = "Freeze it (requires_grad_(False)), and leave it out of the optimizer. Or detach the target."

    def check(self, context: Context) -> Iterator[Finding]:
        for optimizer in context.trace.optimizers:
            found: dict[int, tuple[Parameter, Op, ModeSwitch]] = {}
            for loss, value, target in find_targeted_losses(context, _LOSSES):
                students = {p.index for p in context.flow.trained_by([value])}
                if not any(context.trace.parameters[i].key in optimizer.keys for i in students):
                    continue
                for parameter in context.flow.trained_by([target]):
                    switch = _evaluated(context, parameter, students)
                    if parameter.key in optimizer.keys and switch is not None:
                        found.setdefault(parameter.index, (parameter, loss, switch))
            if found:
                yield self._finding(context, optimizer, list(found.values()))

    def _finding(
        self, context: Context, optimizer: Optimizer, found: list[tuple[Parameter, Op, ModeSwitch]]
    ) -> Finding:
        _, loss, switch = found[0]
        parameters = [parameter for parameter, _, _ in found]
        network = list_of(dict.fromkeys(context.trace.modules[s.module].fqn for _, _, s in found))
        return context.finding(
            self,
            self.MESSAGE.format(
                optimizer=optimizer.type,
                network=network,
                loss=loss.name,
                parameters=context.names(parameters),
            ),
            at=optimizer.site,
            parameters=parameters,
            related=[
                context.related(self.RELATED_LOSS.format(network=network), loss.site),
                context.related(self.RELATED_EVAL, switch),
            ],
            fix=Fix(self.FIX),
        )


def _evaluated(context: Context, parameter: Parameter, students: set[ParameterIndex]) -> ModeSwitch | None:
    """Return the eval() of user code on a network that contains a parameter and no student.

    None if the network ran in train mode, or if the students are in eval mode too.
    """
    trace = context.trace
    around = trace.around(parameter.module)
    alone = {m.number for m in around if students.isdisjoint(p.index for p in trace.below(m))}
    modes = {call.training for call in trace.calls if call.start >= trace.forward_start and call.module in alone}
    if modes != {False} or not any(trace.modules[trace.parameters[i].module].training_after for i in students):
        return None
    switches = [e for e in trace.events_of(ModeSwitch) if e.module in alone and context.by_user(e.site)]
    return switches[-1] if switches else None
