"""The source rules over the code that a recording ran."""

from __future__ import annotations

import ast
import functools
import os
from collections.abc import Collection, Iterable, Sequence, Set
from dataclasses import replace

from gradlint.engine.source_file import judge, may_apply
from gradlint.findings import Finding
from gradlint.rulekit.executed_code import executed_functions
from gradlint.rulekit.rule import Rule
from gradlint.rulekit.source_context import SourceContext
from gradlint.source.file import SourceModule
from gradlint.source.lookup import source_module
from gradlint.source.scopes import first_line
from gradlint.system import reading
from gradlint.traces.trace import Trace


def source_findings(
    trace: Trace,
    rules: Sequence[type[Rule]],
    recorded: Sequence[Finding],
    skipped: Collection[str],
    files: Iterable[str] = (),
) -> tuple[list[Finding], dict[str, tuple[tuple[int, int], ...]]]:
    """Return the source rules' findings in executed code, and the lines that ran by file.

    A finding in executed code is left out if the recording has it too, or if the rule's recording overrides its source.

    Args:
        trace: the recording.
        rules: the selected rules.
        recorded: their findings in the recording.
        skipped: codes of the rules that could not judge the recording.
        files: executed files of which all functions are judged, those too that did not run.
    """
    source_rules = [rule for rule in rules if rule.judges_source()]
    overridden = {r.code for r in source_rules if r.recording_overrides_source and r.code not in skipped}
    executed: dict[SourceModule, set[ast.AST]] = {}
    for function in executed_functions(trace):
        executed.setdefault(function.module, set()).add(function.node)
    whole = set()
    for path in files:
        module = _module(path, source_rules)
        if module is not None:
            executed.setdefault(module, set()).add(module.syntax)
            whole.add(module)
    findings: list[Finding] = []
    for module, nodes in executed.items():
        asked = [rule for rule in source_rules if module in whole or rule.code not in overridden]
        for found in _found(module, tuple(may_apply(module.source.data, asked))):
            finding = replace(found, target=trace.target or found.target)
            if _is_executed(module.syntax, finding, nodes):
                if finding.code not in overridden:
                    findings.append(finding)
            elif module in whole:
                findings.append(finding)
    return without_recorded(findings, recorded, source_rules), {
        module.path: _spans(nodes) for module, nodes in executed.items()
    }


@functools.lru_cache(maxsize=64)  # a file may hold many targets
def _found(module: SourceModule, rules: tuple[type[Rule], ...]) -> list[Finding]:
    return judge(SourceContext(module), rules)


def _module(path: str, rules: Sequence[type[Rule]]) -> SourceModule | None:
    """Return a parsed file; None if no rule may find anything in it."""
    try:
        data = reading.read(path)
    except OSError:
        return None
    return source_module(path) if may_apply(data, rules) else None


def without_recorded(
    findings: Iterable[Finding], recorded: Sequence[Finding], rules: Iterable[type[Rule]]
) -> list[Finding]:
    """Return findings of source rules without the mistakes that a recording found itself."""
    codes = {rule.code: (rule.code, *rule.same_mistake_as) for rule in rules}
    return [f for f in findings if not any(_is_same_mistake(f, other, codes.get(f.code, ())) for other in recorded)]


def _is_same_mistake(finding: Finding, other: Finding, codes: Collection[str]) -> bool:
    """Return True if another finding has one of these codes and is on a line of the first."""
    one, two = finding.location, other.location
    if other.code not in codes or one is None or two is None:
        return False
    if os.path.abspath(two.path) != one.path:
        return False
    return one.line <= (two.end_line or two.line) and two.line <= (one.end_line or one.line)


def _is_executed(tree: ast.Module, finding: Finding, executed: Set[ast.AST]) -> bool:
    """Return True if the function around a finding ran; for a class body, any of its methods."""
    if finding.location is None:
        return True
    line = finding.location.line
    owner: ast.AST = tree
    inner: ast.AST | None = tree
    while inner is not None:
        inner = next((child for child in ast.iter_child_nodes(inner) if _covers(child, line)), None)
        is_function = isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and line != inner.lineno
        if inner is not None and (is_function or isinstance(inner, ast.ClassDef)):
            owner = inner
    return not executed.isdisjoint(owner.body if isinstance(owner, ast.ClassDef) else [owner])


def _covers(node: ast.AST, line: int) -> bool:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        start = first_line(node)
    else:
        start = getattr(node, "lineno", 0)
    return bool(start <= line <= (getattr(node, "end_lineno", 0) or 0))


def _spans(executed: Set[ast.AST]) -> tuple[tuple[int, int], ...]:
    """Return the lines of the functions that ran, with those of nested functions that did not."""
    functions = [node for node in executed if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return tuple(sorted((first_line(node), node.end_lineno or node.lineno) for node in functions))
