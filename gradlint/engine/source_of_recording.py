"""The source rules over the code that a recording ran: what the tree proves of it and the recording did not say."""

from __future__ import annotations

import ast
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gradlint.engine.source_file import judge, marked
from gradlint.findings import Finding
from gradlint.rulekit.rule import Rule
from gradlint.source.file import SourceModule
from gradlint.source.text import SourceText, Unreadable
from gradlint.traces.sites import is_project

if TYPE_CHECKING:
    from gradlint.traces.trace import Trace

Ran = dict[str, set[tuple[str, int]]]
"""File → (name, first line) of each function that ran."""


def functions_that_ran(trace: Trace) -> Ran:
    """The user's functions that ran while recording, by file."""
    found: Ran = {}
    for code in trace.executed:
        if is_project(code.co_filename):
            found.setdefault(os.path.abspath(code.co_filename), set()).add((code.co_name, code.co_firstlineno))
    return found


def source_findings(
    trace: Trace, rules: Sequence[type[Rule]], recorded: Sequence[Finding], skipped: Collection[str]
) -> tuple[list[Finding], dict[str, tuple[tuple[int, int], ...]]]:
    """(findings, lines that ran by file).

    Left out is what did not run, what the recording found itself, and what rules whose recording decides did not find
    though they judged it.

    Args:
        trace: the recording.
        rules: the rules that were asked for.
        recorded: what they found in the recording.
        skipped: codes of those that could not judge it.
    """
    asked = [r for r in rules if r.judges_source() and not (r.recording_decides and r.code not in skipped)]
    same_as = {rule.code: rule.same_as for rule in asked}
    found: list[Finding] = []
    ran: dict[str, tuple[tuple[int, int], ...]] = {}
    for path, functions in functions_that_ran(trace).items():
        try:
            with open(path, "rb") as file:
                module = SourceModule(SourceText(path, file.read()), trace.target)
        except (OSError, Unreadable):
            continue
        ran[path] = _spans(module.syntax, functions)
        for finding in judge(module, marked(module.source.data, asked)):
            known = any(same_mistake(finding, other, same_as[finding.code]) for other in recorded)
            if not known and _ran(module.syntax, finding, functions):
                found.append(replace(finding, target=trace.target))
    return found, ran


def same_mistake(finding: Finding, other: Finding, same_as: Collection[str] = ()) -> bool:
    """Whether two findings are of one mistake: of one rule, or of another in `same_as`, on lines that meet."""
    one, two = finding.location, other.location
    if (
        other.code not in (finding.code, *same_as)
        or one is None
        or two is None
        or os.path.abspath(two.path) != one.path
    ):
        return False
    return one.line <= (two.end_line or two.line) and two.line <= (one.end_line or one.line)


def _first(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return min([d.lineno for d in node.decorator_list], default=node.lineno)


def _ran(tree: ast.Module, finding: Finding, functions: set[tuple[str, int]]) -> bool:
    """Whether the code that a finding is about ran: the function it is in; for a part of a class outside of its
    methods, any method of the class; for the rest, the file."""
    if finding.location is None:
        return True
    line = finding.location.line
    owner: ast.AST = tree
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        for child in ast.iter_child_nodes(node):
            first = (
                _first(child)
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                else getattr(child, "lineno", 0)
            )
            if not first <= line <= (getattr(child, "end_lineno", 0) or 0):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and line != child.lineno:
                owner = child
            elif isinstance(child, ast.ClassDef):
                owner = child
            pending = [child]
            break
    if isinstance(owner, ast.ClassDef):
        methods = [n for n in owner.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
        return any((m.name, _first(m)) in functions for m in methods)
    if isinstance(owner, ast.FunctionDef | ast.AsyncFunctionDef):
        return (owner.name, _first(owner)) in functions
    return any(name == "<module>" for name, _ in functions)


def _spans(tree: ast.Module, functions: set[tuple[str, int]]) -> tuple[tuple[int, int], ...]:
    """The lines of the functions that ran; those of functions inside them that did not are not taken out."""
    return tuple(
        (_first(node), node.end_lineno or node.lineno)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (node.name, _first(node)) in functions
    )
