"""Which of several rules reports a parameter: their order, and the findings that give way."""

from __future__ import annotations

import graphlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradlint.findings import Finding
from gradlint.rulekit.rule import Rule

if TYPE_CHECKING:
    from gradlint.rulekit.context import Context


def in_order(rules: Sequence[type[Rule]]) -> list[type[Rule]]:
    """Return rules in an order in which each comes after those that it yields to.

    Raises:
        graphlib.CycleError: rules yield to each other in a circle; its second argument lists their codes.
    """
    by_code = {rule.code: rule for rule in rules}
    graph = {code: sorted(rule.yields_to & by_code.keys()) for code, rule in by_code.items()}
    return [by_code[code] for code in graphlib.TopologicalSorter(graph).static_order()]


def run(rule: Rule, context: Context) -> list[Finding]:
    """Return the findings of a rule that the rules with precedence have not reported.

    A finding is dropped if those rules reported all of its parameters.
    """
    findings = []
    taken = context.reported_before(rule)
    for finding in rule.check(context):
        if not finding.parameters or not taken.issuperset(finding.parameters):
            findings.append(finding)
    context.reported[rule.code] = {name for finding in findings for name in finding.parameters}
    return findings
