"""GL702 declared-frozen-trains."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import (
    Context,
    Declaration,
    Finding,
    Fix,
    Location,
    Module,
    Parameter,
    Related,
    Rule,
    Severity,
    lines_of,
    moves,
    path_to_loss,
    replaced_frozen,
    standing,
)


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

    def check(self, context: Context) -> Iterator[Finding]:
        yield from self._parameters(context)
        yield from self._statistics(context)

    # -- by gradient --------------------------------------------------------------------------------------------

    def _parameters(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        replaced = replaced_frozen(trace)
        groups: dict[tuple[Location | None, int, str], list[tuple[Parameter, Declaration]]] = {}
        unknown: dict[str, list[tuple[Parameter, Declaration]]] = {}
        for parameter, declaration in context.contract.declared("frozen", trace):
            found = moves(context.flow, parameter)
            if found is None:
                told = standing(context.flow, parameter)
                if told.state == "unknown" and parameter.groups:
                    unknown.setdefault(told.why, []).append((parameter, declaration))
                continue
            key = (found.location, found.site, found.why)
            if parameter.index in replaced:
                site = replaced[parameter.index].site
                key = (trace.location(site), site, f"made anew here after the freeze, {found.why}")
            groups.setdefault(key, []).append((parameter, declaration))
        for (where, site, how), members in groups.items():
            yield self._moves(context, where, site, how, members)
        for why, members in unknown.items():
            yield self._unknown(context, why, members)

    def _moves(
        self,
        context: Context,
        where: Location | None,
        site: int,
        how: str,
        members: list[tuple[Parameter, Declaration]],
    ) -> Finding:
        parameters = [p for p, _ in members]
        path = _path(context, parameters)
        optimizers = {number: None for p in parameters for number, _ in p.groups}
        return context.finding(
            self,
            f"{_declared(context, members)} and would move: {how}.",
            at=where,
            parameters=parameters,
            related=[
                *(Related("gradient reaches them through here", place) for place in path),
                *context.callers(site),
                *(
                    context.related(f"{context.trace.optimizers[n].type} made here", context.trace.optimizers[n].site)
                    for n in optimizers
                ),
                context.related("frozen here, before", _frozen_before(parameters)),
                *_declared_here(context, members),
            ],
            fix=Fix(
                "Freeze them with requires_grad_(False) before the optimizer is made, or take back the declaration."
            ),
        )

    def _unknown(self, context: Context, why: str, members: list[tuple[Parameter, Declaration]]) -> Finding:
        return context.finding(
            self,
            f"{_declared(context, members)}, and this recording cannot tell whether that holds: they require grad, an "
            f"optimizer holds them, and {why}.",
            at=None,
            parameters=[p for p, _ in members],
            related=_declared_here(context, members),
            fix=Fix("Freeze them with requires_grad_(False), or give a loss that tells."),
            severity=Severity.INFO,
        )

    # -- by statistics ------------------------------------------------------------------------------------------

    def _statistics(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[Location | None, list[tuple[Module, Declaration]]] = {}
        for module, declaration in context.contract.frozen_norms(trace):
            if not trace.buffers_moved.isdisjoint((f"{module.fqn}.running_mean", f"{module.fqn}.running_var")):
                groups.setdefault(trace.location(_norm_site(context, module)), []).append((module, declaration))
        for where, members in groups.items():
            modules = [m for m, _ in members]
            parameters = [trace.parameters[i] for m in modules for i in m.parameters]
            one = len(modules) == 1
            listed = ", ".join(m.fqn for m in modules[:4]) + (f" and {len(modules) - 4} more" if modules[4:] else "")
            patterns = ", ".join(dict.fromkeys(repr(d.pattern) for _, d in members))
            yield context.finding(
                self,
                f"{listed} {'is' if one else 'are'} declared frozen ({patterns}) and {'moves' if one else 'move'}: in "
                f"train mode {'its' if one else 'their'} running statistics follow every batch.",
                at=where,
                parameters=parameters,
                related=[
                    context.related(f"{modules[0].fqn} is made here", modules[0].registered_at),
                    *_declared_here(context, members),
                ],
                fix=Fix("Put them in eval mode, and keep them there by overriding train()."),
                named=()
                if parameters
                else [f"{m.fqn}.{name}" for m in modules for name in ("running_mean", "running_var")],
            )


def _declared(context: Context, members: list[tuple[Parameter, Declaration]]) -> str:
    parameters = [p for p, _ in members]
    patterns = ", ".join(dict.fromkeys(repr(d.pattern) for _, d in members))
    return f"{context.names(parameters)} {'is' if len(parameters) == 1 else 'are'} declared frozen ({patterns})"


def _declared_here(
    context: Context, members: list[tuple[Parameter, Declaration]] | list[tuple[Module, Declaration]]
) -> list[Related | None]:
    places = list(dict.fromkeys(d.location for _, d in members))
    return [context.related("declared here", place) for place in places[:2]]


def _frozen_before(parameters: list[Parameter]) -> int | None:
    return next((e.site for p in parameters for e in reversed(p.history) if e.kind == "freeze"), None)


def _path(context: Context, parameters: list[Parameter]) -> list[Location]:
    """The user's lines on the way by which gradient comes back to the parameters: the first two, the last."""
    for parameter in reversed(parameters):
        readers = context.flow.readers(parameter)
        if readers:
            lines = lines_of(context.trace, path_to_loss(context.trace, parameter, readers[0], by_gradient=True))
            return lines if len(lines) <= 3 else [*lines[:2], lines[-1]]
    return []


def _norm_site(context: Context, module: Module) -> int:
    """Where the parameters of a norm were frozen, else where the norm was put into the model."""
    frozen = (context.trace.parameters[i].frozen_by for i in module.parameters)
    return next((e.site for e in frozen if e is not None), module.registered_at)
