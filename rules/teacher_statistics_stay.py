"""GL212 teacher-statistics-stay."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity, Trace
from gradlint.rulekit import list_of, plural
from gradlint.traces import (
    DETACHED_VALUES,
    DIVIDE,
    JOINS,
    MULTIPLY,
    RESHAPES,
    SAME_VALUES,
    SUMS,
    ModuleIndex,
    ParameterWrite,
)

_PASSES = DETACHED_VALUES | SAME_VALUES | RESHAPES | JOINS | SUMS | MULTIPLY | DIVIDE | {"lerp", "__getitem__"}
"""Ops that copies and averages are made of."""


class TeacherStatisticsStay(Rule):
    """A network that follows another, except for the running statistics of its norms.

    ## What it does
    Finds networks whose parameters user code moves after those of another one in the recorded steps, as an average or a
    copy. Their norms run in eval mode on the way to the loss, but nothing updates their running statistics.

    ## Why it is bad
    `parameters()` contains no buffers. The weights move on while the norms normalize with the statistics of the first
    step. The outputs of the teacher, which the loss compares with, become wrong.

    ## Example
    ```python
    import copy

    import torch
    from torch import nn

    def build():
        student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        teacher = copy.deepcopy(student).requires_grad_(False).eval()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        x = torch.randn(6, 4)

        def step():
            with torch.no_grad():
                target = teacher(x)
            optimizer.zero_grad()
            nn.functional.mse_loss(student(x + 0.1), target).backward()
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(teacher.parameters(), student.parameters()):
                    old.lerp_(new, 0.1)

        return {"model": {"student": student, "teacher": teacher}, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import copy

    import torch
    from torch import nn

    def build():
        student = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        teacher = copy.deepcopy(student).requires_grad_(False).eval()
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        x = torch.randn(6, 4)

        def step():
            with torch.no_grad():
                target = teacher(x)
            optimizer.zero_grad()
            nn.functional.mse_loss(student(x + 0.1), target).backward()
            optimizer.step()
            with torch.no_grad():
                for old, new in zip(teacher.parameters(), student.parameters()):
                    old.lerp_(new, 0.1)
                for old, new in zip(teacher.buffers(), student.buffers()):
                    old.copy_(new)

        return {"model": {"student": student, "teacher": teacher}, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    Not reported if the followed norm does not update its statistics either, or if the network that follows is only
    evaluated. In a `step`, the network that follows must be part of the declared model. Statistics that are copied less
    often than the steps recorded count as left behind.

    ## References
    https://pytorch.org/docs/stable/optim.html#weight-averaging-swa-and-ema (custom averaging, use_buffers)
    """

    code = "GL212"
    name = "teacher-statistics-stay"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    MESSAGE = (
        "this update moves {teacher} toward {student}, but not the running statistics of {count} ({names}), which "
        "{normalize} in eval mode before the loss."
    )
    FIX = (
        "Copy the buffers too: for old, new in zip(teacher.buffers(), student.buffers()): old.copy_(new). Or run the "
        "teacher in train mode."
    )

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        used = context.flow.behind(training.roots)
        updates: dict[tuple[str, str], ParameterWrite] = {}
        for parameter in trace.parameters:
            for event in parameter.writes:
                if event.number >= training.first_event and parameter.index in used:
                    followed = _followed(trace, parameter, event)
                    if followed is not None:
                        updates.setdefault(_roots(parameter.fqn, followed.fqn), event)
        ran = trace.modes_since(training.start)
        for (teacher, student), event in updates.items():
            norms = [m for m in trace.modules if _is_left_behind(trace, m, teacher, student, ran)]
            if norms:
                yield context.finding(
                    self,
                    self.MESSAGE.format(
                        teacher=teacher or "the model",
                        student=student or "the model",
                        count=plural(len(norms), "norm layer"),
                        names=list_of(m.fqn for m in norms),
                        normalize="normalizes" if len(norms) == 1 else "normalize",
                    ),
                    at=event.site,
                    parameters=[p for m in norms for p in trace.own(m)],
                    related=context.callers(event.site),
                    fix=Fix(self.FIX),
                )


def _followed(trace: Trace, parameter: Parameter, event: ParameterWrite) -> Parameter | None:
    """Return the trained parameter that a write copies into another, or averages it with."""
    if parameter.groups:
        return None
    pending = set(event.sources)
    seen = set(pending)
    while pending:
        made = [op for v in pending - trace.owners.keys() if (op := trace.made_by(v)) is not None]
        passed = [op for op in made if op.name in _PASSES or op.name.startswith("_foreach_")]
        pending = {v for op in passed for v in op.inputs} - seen
        seen |= pending
    candidates = [p for v in seen & trace.owners.keys() if (p := trace.parameters[trace.owners[v]]).groups]
    return min(candidates, key=lambda p: len(_roots(parameter.fqn, p.fqn)[0]), default=None)


def _roots(one_name: str, other_name: str) -> tuple[str, str]:
    """Return what two names begin with before their last names in common: the networks."""
    one, two = one_name.split("."), other_name.split(".")
    while one and two and one[-1] == two[-1]:
        one.pop()
        two.pop()
    return ".".join(one), ".".join(two)


def _is_left_behind(
    trace: Trace, module: Module, teacher: str, student: str, ran: dict[ModuleIndex, set[bool]]
) -> bool:
    """Return True if a norm of the teacher runs in eval mode while its twin updates statistics."""
    prefix = f"{teacher}." if teacher else ""
    if not module.fqn.startswith(prefix):
        return False
    twin = f"{student}.{module.fqn.removeprefix(prefix)}".removeprefix(".")
    moved, known = trace.buffers_moved, trace.buffers.values()
    mean = f"{module.fqn}.running_mean"
    return (
        ran.get(module.number) == {False}
        and mean in known  # a network that the steps make themselves was not there to be compared
        and mean not in moved
        and f"{twin}.running_mean" in moved
    )
