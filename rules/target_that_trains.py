"""GL414 target-that-trains."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from gradlint import Context, Finding, Fix, Op, Optimizer, Parameter, Rule, Severity
from gradlint.rulekit import find_targeted_losses, list_of
from gradlint.traces import ModeSwitch, ModuleIndex, ValueId

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
        trace = context.trace
        ran = trace.modes_since(trace.forward_start)
        evals = {e.module: e for e in trace.events_of(ModeSwitch) if context.by_user(e.site)}
        compared = []
        for loss, value, target in find_targeted_losses(context, _LOSSES) if evals else ():
            students = context.flow.trained_by([value])
            if any(trace.modules[p.module].training_after for p in students):
                compared.append((loss, students, _evaluated(context, target, students, ran, evals)))
        for optimizer in trace.optimizers:
            found: dict[int, tuple[Parameter, Op, ModeSwitch]] = {}
            for loss, students, evaluated in compared:
                if not optimizer.keys.isdisjoint(p.key for p in students):
                    for parameter, switch in evaluated:
                        if parameter.key in optimizer.keys:
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


def _evaluated(
    context: Context,
    target: ValueId,
    students: Iterable[Parameter],
    ran: Mapping[ModuleIndex, Set[bool]],
    evals: Mapping[ModuleIndex, ModeSwitch],
) -> list[tuple[Parameter, ModeSwitch]]:
    """Return the parameters of a target that user code put in eval mode, each with the call.

    The call is on a network without a student. One that ran in train mode is left out.
    """
    trace = context.trace
    learning = {m.number for p in students for holder in trace.holders[p.index] for m in trace.around(holder.number)}
    evaluated = []
    for parameter in context.flow.trained_by([target]):
        alone = [m.number for m in trace.around(parameter.module) if m.number not in learning]
        switches = [evals[number] for number in alone if number in evals]
        if switches and {mode for number in alone for mode in ran.get(number, ())} == {False}:
            evaluated.append((parameter, max(switches, key=lambda e: e.number)))
    return evaluated
