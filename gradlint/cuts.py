"""From cuts to findings: what GL401 to GL404 have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gradlint.findings import Finding, Fix, Severity
from gradlint.flow import Cut
from gradlint.rule import Context, Rule


def cut_findings(
    rule: Rule,
    context: Context,
    wanted: Callable[[Cut], bool],
    message: Callable[[Cut], str],
    fix: Fix,
) -> Iterator[Finding]:
    """A finding for each cut that a rule is about.

    Silent where the loss has no gradient at all (that is GL406's), and where requires_grad was set afterwards to hide
    it (GL410's). Info where neither the place nor any of the
    parameters is the user's own.
    """
    if context.flow.loss_lacks_gradient:
        return
    for cut in context.flow.cuts:
        if not wanted(cut) or not cut.starved or cut.relabelled is not None:
            continue
        foreign = not cut.project and not any(p.project for p in cut.starved)
        innermost = context.trace.sites.innermost(cut.site)
        library = None
        if innermost is not None and not innermost.project:
            library = context.related("in this library code", innermost.location)
        yield context.finding(
            rule,
            f"{message(cut)} {context.names(cut.starved)}.",
            at=cut.location,
            parameters=cut.starved,
            related=[
                library,
                context.related("the value comes back here", cut.returned),
                *(context.related("and would be cut here next", place) for place in cut.later),
                *context.callers(cut.site),
            ],
            fix=fix,
            severity=Severity.INFO if foreign else None,
        )
