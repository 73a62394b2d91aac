"""Findings about cuts, as the rules for single kinds of cut share them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from gradlint.findings import Finding, Fix, Related, Severity
from gradlint.flow.cut import Cut, CutKind
from gradlint.rulekit.context import Context
from gradlint.rulekit.rule import Rule
from gradlint.traces.op_families import LOOKUPS

MESSAGE_TERM = "It also makes a term of the loss constant, and that term does not train {parameters}."
MESSAGE_ZERO = "Another term of the loss gives {parameters} a gradient with the factor 0."
RELATED_TERM = "the value enters the loss in this term"

_INDICES_FIRST = frozenset({"embedding", "embedding_bag", "one_hot"})
"""Lookups whose first argument holds the indices."""


def report_cuts(
    rule: Rule,
    context: Context,
    kind: CutKind,
    template: Callable[[Cut], str],
    fix: str,
    severity: Severity | None = None,
) -> Iterator[Finding]:
    """Yield a finding for each cut of one kind.

    The templates have the fields ``{call}`` and ``{parameters}``. The severity is the rule's unless another is given.
    The severity is info where neither the place nor any parameter is user code. It is info also where a module of a
    library cuts off parts of itself, for example an indexer that a loss of its own trains. An op that has no gradient
    by nature is info where other cuts explain the same parameters: few such lines can be changed. The same holds for
    one that only makes the indices of a lookup.
    """
    cuts = context.flow.cuts
    left_out = {p.index for term in context.flow.left_out for p in term.parameters}
    explained = {p.index for c in cuts if c.kind is not CutKind.NONDIFFERENTIABLE for p in c.starved}
    by_value = {p.index for c in cuts if not _is_lookup(context, c) for p in c.starved}
    for position, cut in enumerate(cuts):
        if cut.kind is not kind or cut.relabelled is not None:
            continue  # requires_grad_() after the cut is the line to report
        if context.trace.ops[cut.op].region in context.trace.grad_off_leaked:
            continue  # the line that left grad mode off is the one to report
        starved = [p for p in cut.starved if p.index not in left_out]
        if not starved:
            continue  # the loss that is never added is the line to report
        by_user = cut.project or any(p.project for p in starved)
        innermost = context.trace.sites.innermost(cut.site)
        library = innermost.location if innermost is not None and not innermost.project else None
        message = template(cut).format(call=cut.name, parameters=context.names(starved))
        if losing := context.flow.loses_a_term(cut):
            message = f"{message} {context.fill(MESSAGE_TERM, losing)}"
        if only_zero := [p for p in starved if p.index in context.flow.only_zero]:
            message = f"{message} {context.fill(MESSAGE_ZERO, only_zero)}"
        yield context.finding(
            rule,
            message,
            at=cut.location,
            parameters=[*starved, *losing],
            related=[
                context.related("in this library code", library),
                context.related("the value returns to torch here", cut.returned),
                context.related("its backward is defined here", cut.defined),
                *(context.related("the path is cut here too", place) for place in cut.later),
                *_term_places(context, position),
                *context.callers(cut.site),
                *(place for site in cut.again[:2] for place in context.callers(site, limit=1)),
            ],
            fix=Fix(fix),
            severity=Severity.WARNING if len(only_zero) == len(starved) else severity,
            demoted=not by_user
            or _cuts_own_parts(context, cut)
            or (kind is CutKind.NONDIFFERENTIABLE and explained.issuperset(p.index for p in starved))
            or (_is_lookup(context, cut) and by_value.issuperset(p.index for p in starved)),
        )


def _term_places(context: Context, position: int) -> Iterator[Related]:
    """Yield the terms of the loss that the values behind a cut enter.

    The cut is given by its position in `Flow.cuts`.
    """
    sites = context.flow.terms_behind.get(position, ())
    places = dict.fromkeys(place for site in sites if (place := context.trace.location(site)) is not None)
    yield from (Related(RELATED_TERM, place) for place in itertools.islice(places, 3))


def _is_lookup(context: Context, cut: Cut) -> bool:
    """Return True if a cut makes integers that the loss uses only as indices."""
    flow, trace = context.flow, context.trace
    if cut.kind is not CutKind.NONDIFFERENTIABLE or cut.zero or not cut.outputs:
        return False
    pending, seen = list(cut.outputs), set(cut.outputs)
    while pending:
        value = pending.pop()
        if "int" not in trace.values[value].dtype or value in trace.roots:
            return False
        for number in flow.consumers.get(value, ()):
            op = trace.ops[number]
            by_index = op.inputs if op.name in _INDICES_FIRST else op.inputs[1:]
            if op.name in LOOKUPS and value in by_index:
                continue
            outputs = [o for o in op.outputs if o in flow.on_path and o not in seen]
            seen.update(outputs)
            pending += outputs
    return True


def _cuts_own_parts(context: Context, cut: Cut) -> bool:
    """Return True if a library module cuts gradient to its own parameters in its forward.

    A library method that user code calls instead of the forward (``encode()`` under no_grad) is the user's choice.
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
        event = parameter.registered_by
        registrant = trace.sites.innermost(event.site) if event is not None else None
        if parameter.project if registrant is None else registrant.project:
            return False
    for call in trace.calls_around(trace.ops[cut.op].call):
        module = trace.modules[trace.calls[call].module]
        if module.type.project:
            return False
        if module.in_tree and all(p.fqn.startswith(f"{module.fqn}.") for p in cut.starved):
            return True
    return False
