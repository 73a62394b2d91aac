"""GL702 declared-frozen-trains."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradlint import Context, Finding, Fix, Location, Module, Parameter, Related, Rule, Severity
from gradlint.flow import Outcome, OutcomeKind, lines_of, outcome_of, path_to_loss, replaced_frozen, value_change_of
from gradlint.rulekit import Declaration, DeclarationKind, inflect, list_of
from gradlint.traces import Freeze, SiteId

Member = tuple[Parameter, Declaration, Outcome]


class DeclaredFrozenTrains(Rule):
    """A parameter that is declared frozen but would change.

    ## What it does
    Compares the patterns under `frozen` with the recording. A parameter changes if gradient reaches it and an optimizer
    contains it. If no optimizer is known, gradient is enough. A norm layer changes if the forward updates its running
    statistics. Gradient may pass through a frozen network without changing it.

    ## Why it is bad
    Parameters that should stay fixed (a pretrained encoder, a perceptual loss, a teacher) drift during training, and
    nothing fails.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "frozen": ["0.*"]}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        optimizer = torch.optim.SGD(filter(lambda p: p.requires_grad, model.parameters()), lr=0.1)
        return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "frozen": ["0.*"]}
    ```

    ## Known limits
    Only one forward and one loss are judged. Changes by another loss or by hand (a momentum encoder) are not seen. Of
    the buffers, only `running_mean` and `running_var` count.

    ## References
    README, "Contracts".
    """

    code = "GL702"
    name = "declared-frozen-trains"
    severity = Severity.ERROR
    needs = frozenset({"contract"})

    MESSAGE = "{parameters} {are} declared frozen ({patterns}) but would change: {cause}."
    MESSAGE_UNKNOWN = (
        "{parameters} {are} declared frozen ({patterns}) but {require} grad and {are} in an optimizer; this recording "
        "does not decide whether training changes the values: {cause}."
    )
    MESSAGE_STATISTICS = (
        "{modules} {are} declared frozen ({patterns}) but in train mode: every batch changes the running statistics."
    )
    REPLACED = "created here after the freeze, {cause}"
    FIX = "Freeze them with requires_grad_(False) before the optimizer is created, or remove the declaration."
    FIX_UNKNOWN = "Freeze them with requires_grad_(False), or pass a loss whose gradient shows whether they train."
    FIX_STATISTICS = "Put them in eval mode, and keep them there by overriding train()."

    def check(self, context: Context) -> Iterator[Finding]:
        yield from self._parameters(context)
        yield from self._statistics(context)

    # -- changes by gradient ------------------------------------------------------------------------------------

    def _parameters(self, context: Context) -> Iterator[Finding]:
        trace, flow, replaced = context.trace, context.flow, replaced_frozen(context.trace)
        changing: list[Member] = []
        unknown: list[Member] = []
        for parameter, declaration in context.contract.declared(DeclarationKind.FROZEN, trace):
            change, outcome = value_change_of(flow, parameter), outcome_of(flow, parameter)
            if change is not None and parameter.index in replaced:
                site = replaced[parameter.index].site
                cause = self.REPLACED.format(cause=change.why)
                change = replace(change, location=trace.location(site), site=site, why=cause)
            if change is not None:
                changing.append((parameter, declaration, change))
            elif outcome.kind is OutcomeKind.UNKNOWN and parameter.groups:
                unknown.append((parameter, declaration, outcome))
        for (where, site, cause), members in context.by_place(changing, lambda m: (m[2].location, m[2].site, m[2].why)):
            yield self._changes(context, where, site, cause, members)
        for cause, members in context.by_place(unknown, lambda member: member[2].why):
            yield context.finding(
                self,
                _worded(context, self.MESSAGE_UNKNOWN, members, cause),
                at=None,
                parameters=[p for p, _, _ in members],
                related=_declared_here(context, [d for _, d, _ in members]),
                fix=Fix(self.FIX_UNKNOWN),
                demoted=True,
            )

    def _changes(
        self, context: Context, where: Location | None, site: SiteId, cause: str, members: list[Member]
    ) -> Finding:
        parameters = [p for p, _, _ in members]
        numbers = dict.fromkeys(number for p in parameters for number, _ in p.groups)
        optimizers = [context.trace.optimizers[number] for number in numbers]
        return context.finding(
            self,
            _worded(context, self.MESSAGE, members, cause),
            at=where,
            parameters=parameters,
            related=[
                *(Related("gradient reaches them through this line", place) for place in _path(context, parameters)),
                *context.callers(site),
                *map(context.created, optimizers),
                context.related("frozen here before", _last_freeze(parameters)),
                *_declared_here(context, [d for _, d, _ in members]),
            ],
            fix=Fix(self.FIX),
        )

    # -- changes of running statistics --------------------------------------------------------------------------

    def _statistics(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        moved = [
            (module, declaration)
            for module, declaration in context.contract.frozen_norms(trace)
            if not trace.buffers_moved.isdisjoint(_statistics_of(module))
        ]
        for where, members in context.by_place(moved, lambda member: _norm_location(context, member[0])):
            modules, declarations = [m for m, _ in members], [d for _, d in members]
            parameters = [p for m in modules for p in trace.own(m)]
            yield context.finding(
                self,
                self.MESSAGE_STATISTICS.format(
                    modules=list_of(m.fqn for m in modules),
                    are=inflect(modules, "are"),
                    patterns=_patterns(declarations),
                ),
                at=where,
                parameters=parameters,
                related=[
                    context.related(f"{modules[0].fqn} is created here", modules[0].registered_at),
                    *_declared_here(context, declarations),
                ],
                fix=Fix(self.FIX_STATISTICS),
                named=() if parameters else [name for m in modules for name in _statistics_of(m)],
            )


def _worded(context: Context, template: str, members: list[Member], cause: str) -> str:
    parameters = [p for p, _, _ in members]
    return context.fill(template, parameters, patterns=_patterns([d for _, d, _ in members]), cause=cause)


def _patterns(declarations: list[Declaration]) -> str:
    return ", ".join(dict.fromkeys(repr(d.pattern) for d in declarations))


def _declared_here(context: Context, declarations: list[Declaration]) -> list[Related | None]:
    places = list(dict.fromkeys(d.location for d in declarations))
    return [context.related("declared here", place) for place in places[:2]]


def _last_freeze(parameters: list[Parameter]) -> SiteId | None:
    return next((e.site for p in parameters for e in reversed(p.history) if isinstance(e, Freeze)), None)


def _path(context: Context, parameters: list[Parameter]) -> list[Location]:
    """Return lines of user code on the gradient path: the first two and the last."""
    for parameter in reversed(parameters):
        readers = context.flow.readers(parameter)
        if readers:
            lines = lines_of(context.trace, path_to_loss(context.trace, parameter, readers[0], by_gradient=True))
            return lines if len(lines) <= 3 else [*lines[:2], lines[-1]]
    return []


def _statistics_of(module: Module) -> tuple[str, str]:
    """Return the names of the buffers in which a norm keeps its running statistics."""
    return f"{module.fqn}.running_mean", f"{module.fqn}.running_var"


def _norm_location(context: Context, module: Module) -> Location | None:
    return context.trace.location(context.freeze_site(module, context.trace.own(module)))
