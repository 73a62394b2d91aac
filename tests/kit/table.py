"""Reads fixture files: which builders they hold, what each is announced to give.

A builder's expectation is every annotation (``# error: [rule-name] parameter, parameter``) inside the builder and
inside the top-level classes, functions and assignments that it names, directly or through others. A parameter may be
a glob; where none is named, the parameters are left open.
"""

from __future__ import annotations

import ast
import fnmatch
import functools
import importlib.util
import io
import re
import sys
import tokenize
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradlint import Rule
    from gradlint.findings import Finding, Report

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "rules"
FIXTURES = ROOT / "fixtures"

ANNOTATION = re.compile(r"#\s*(error|warning|info)(?: (until|from) Python 3\.(\d+))?:\s*\[([a-z0-9-]+)\]([^#]*)")
"""``# error: [rule-name] parameters``; ``# error from Python 3.13: …`` where versions know different places."""


@dataclass(frozen=True)
class Annotation:
    """One expected finding."""

    line: int
    severity: str
    rule: str
    patterns: tuple[str, ...] = ()
    """Parameter names or globs; empty where the fixture leaves them open."""

    def __str__(self) -> str:
        names = ", ".join(self.patterns)
        return f"line {self.line}: {self.severity} [{self.rule}] {names}".rstrip()


@dataclass(frozen=True)
class Builder:
    """One builder function of a fixture file, and what its file says about it."""

    path: Path
    name: str
    line: int
    annotations: tuple[Annotation, ...]

    @property
    def id(self) -> str:
        """A readable test id, for example ``detached_upstream-bad_hook``."""
        return f"{self.path.stem}-{self.name}"

    @property
    def bad(self) -> bool:
        """Whether an error or a warning is expected."""
        return any(a.severity != "info" for a in self.annotations)

    @property
    def target(self) -> str:
        """What a user would type after ``gradlint check``."""
        return f"{self.path}:{self.name}"

    def load(self) -> Callable[[], Any]:
        """Import the file and return the function."""
        build: Callable[[], Any] = getattr(load(self.path), self.name)
        return build


@functools.cache
def load(path: Path) -> ModuleType:
    """Import a fixture file by its path."""
    inside = path.relative_to(ROOT) if path.is_relative_to(ROOT) else Path(*path.parts[-2:])
    name = "_".join(["gradlint", *inside.with_suffix("").parts])
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def annotations(source: str) -> list[Annotation]:
    """All annotations in the comments of a file."""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            for severity, bound, minor, rule, names in ANNOTATION.findall(token.string):
                if bound and not _holds(bound, int(minor)):
                    continue
                patterns = tuple(name.strip() for name in names.split(",") if name.strip())
                found.append(Annotation(token.start[0], severity, rule, patterns))
    return found


def _holds(bound: str, minor: int) -> bool:
    """Return True if this Python is one that an annotation is bound to."""
    return sys.version_info[1] >= minor if bound == "from" else sys.version_info[1] <= minor


def definitions(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Top-level name → the statements that define it."""
    table: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        names: list[str] = []
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            names = [node.name]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name)]
        for name in names:
            table.setdefault(name, []).append(node)
    return table


def closure(name: str, table: dict[str, list[ast.stmt]]) -> list[ast.stmt]:
    """The statements that define `name` and everything at top level that they name, transitively."""
    seen, todo, nodes = {name}, [name], []
    while todo:
        for node in table[todo.pop()]:
            nodes.append(node)
            used = _named(node) & table.keys()
            todo += used - seen
            seen |= used
    return nodes


@functools.cache
def _named(node: ast.stmt) -> set[str]:
    """The names in a statement."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def first_line(node: ast.stmt) -> int:
    """The line on which a definition begins, its decorators included."""
    return min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])


def builders(path: Path, *prefixes: str) -> tuple[Builder, ...]:
    """The builder functions of a file whose names begin with one of the prefixes, in the order of the file."""
    return tuple(b for b in _functions(path) if b.name.startswith(prefixes))


@functools.cache
def _functions(path: Path) -> tuple[Builder, ...]:
    """All functions of a file as builders."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, str(path))
    table, notes = definitions(tree), annotations(source)
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            spans = [range(first_line(part), (part.end_lineno or 0) + 1) for part in closure(node.name, table)]
            mine = tuple(note for note in notes if any(note.line in span for span in spans))
            found.append(Builder(path, node.name, node.lineno, mine))
    return tuple(found)


def fixture_files() -> list[Path]:
    """The files that belong to a rule."""
    return sorted(FIXTURES.glob("*.py"))


def kinds(every: Sequence[Builder]) -> list[Builder]:
    """Return the first builder of each kind: of one file, bad or good, with the same rules announced."""
    first: dict[tuple[Path, str, frozenset[tuple[str, str]]], Builder] = {}
    for builder in every:
        announced = frozenset((note.severity, note.rule) for note in builder.annotations)
        first.setdefault((builder.path, builder.name.partition("_")[0], announced), builder)
    return list(first.values())


@functools.cache
def rules() -> tuple[type[Rule], ...]:
    """All built-in rules."""
    from gradlint.rulekit import registry

    return registry.load(packs=False).rules


@functools.cache
def report(target: str) -> Report:
    """gradlint's report on one target with every rule on, gradients measured and nothing hidden; made only once."""
    from gradlint.engine.check import Options, check_target

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch says about the mistakes is not what is tested
        return check_target(target, rules(), Options(numeric=True))


def names_of(target: str, found: Report) -> str:
    """The findings of a report as text, for failure messages."""
    lines = [f"errors: {[failure.message for failure in found.errors]}"] if found.errors else []
    for finding in found.findings:
        where = f"{Path(finding.location.path).name}:{finding.location.line}" if finding.location else "nowhere"
        lines.append(f"{where}: {finding.severity} {finding.code} [{finding.name}] {', '.join(finding.parameters)}")
    return f"{target} gave\n  " + "\n  ".join(lines or ["nothing"])


def expand(patterns: Sequence[str], names: Sequence[str]) -> set[str]:
    """The parameter names that the patterns stand for. A pattern without wildcards stands for itself."""
    chosen = set()
    for pattern in patterns:
        glob = any(c in pattern for c in "*?")
        chosen |= set(fnmatch.filter(names, pattern)) if glob else {pattern}
    return chosen


def matches(annotation: Annotation, finding: Finding, path: Path, names: Sequence[str]) -> bool:
    """Whether a finding is the one that an annotation announces."""
    here = finding.location is not None and Path(finding.location.path).resolve() == path
    return (
        here
        and finding.location is not None
        and finding.location.line == annotation.line
        and str(finding.severity) == annotation.severity
        and finding.name == annotation.rule
        and (not annotation.patterns or set(finding.parameters) == expand(annotation.patterns, names))
    )


def differences(builder: Builder, found: Report, names: Sequence[str]) -> Iterator[str]:
    """How a report differs from what the builder's file announces; infos count only where they are announced."""
    for failure in found.errors:
        yield f"ended in an error: {failure.message}\n{failure.traceback}"
    left = list(found.findings)
    for annotation in builder.annotations:
        hit = next((f for f in left if matches(annotation, f, builder.path, names)), None)
        if hit is None:
            yield f"not found: {annotation}"
        else:
            left.remove(hit)
    for finding in left:
        if str(finding.severity) != "info":
            where = finding.location.line if finding.location else "?"
            yield f"unexpected: line {where}: {finding.severity} [{finding.name}] {', '.join(finding.parameters)}"
