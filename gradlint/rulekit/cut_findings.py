"""From cuts to findings: the common part of the rules about cuts."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gradlint.findings import Finding, Fix, Severity
from gradlint.flow.cut import Cut
from gradlint.rulekit.context import Context
from gradlint.rulekit.rule import Rule


def cut_findings(
    rule: Rule,
    context: Context,
    wanted: Callable[[Cut], bool],
    message: Callable[[Cut], str],
    fix: Fix,
) -> Iterator[Finding]:
    """A finding for each cut that a rule is about.

    Info where neither the place nor any of the
    parameters is the user's own, and where a library's module cuts off parts of itself (an indexer trained by a loss
    of its own), however deep the user's own modules hold it.
    """
    for cut in context.flow.cuts:
        if not wanted(cut) or cut.relabelled is not None:
            continue  # requires_grad_() after the cut is the line to report
        if context.trace.ops[cut.op].region in context.trace.left_off:
            continue  # the line that left grad mode off is the one to report
        foreign = not cut.project and not any(p.project for p in cut.starved)
        foreign = foreign or _internal(context, cut)
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
                context.related("its backward is defined here", cut.defined),
                *(context.related("and would be cut here next", place) for place in cut.later),
                *context.callers(cut.site),
                *(place for site in cut.again[:2] for place in context.callers(site, limit=1)),
            ],
            fix=fix,
            severity=Severity.INFO if foreign else None,
        )


def _internal(context: Context, cut: Cut) -> bool:
    """Whether a library cuts off what it made itself, in the forward of a module of its own that holds it.

    A library method that the user calls instead of the forward (``encode()`` under no_grad) is the user's choice.
    """
    trace = context.trace
    in_forward = False
    for frame in trace.sites.chain(cut.site):
        if frame.project:
            break
        in_forward = in_forward or frame.code.co_name == "forward"
    if not in_forward:
        return False
    for parameter in cut.starved:
        made = parameter.registered_by
        maker = trace.sites.innermost(made.site) if made is not None else None
        if parameter.project if maker is None else maker.project:
            return False
    call = trace.ops[cut.op].call
    while call >= 0:
        module = trace.modules[trace.calls[call].module]
        if module.type.project:
            return False
        if module.in_tree and all(p.fqn.startswith(f"{module.fqn}.") for p in cut.starved):
            return True
        call = trace.calls[call].parent
    return False
