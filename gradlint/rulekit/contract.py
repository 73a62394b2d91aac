"""Declarations of parameters that should train or stay frozen, and which one applies to each.

A declaration is a glob pattern of parameter names. Where one pattern's parameters are all among another's and fewer, it
is an exception to it (``frozen = ["*"], trains = ["head.*"]``); any other overlap is a contradiction.
"""

from __future__ import annotations

import ast
import enum
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field

from gradlint.errors import TargetError
from gradlint.location import Location
from gradlint.rulekit.executed_code import executed_functions
from gradlint.source.lookup import Function
from gradlint.traces.trace import Module, Parameter, Trace
from gradlint.wording import nearest, summarize_names


class DeclarationKind(enum.Enum):
    """The kind of a declaration; its value is the key in the setup and the configuration."""

    TRAINS = "trains"
    FROZEN = "frozen"


@dataclass(frozen=True)
class Declaration:
    """One pattern of a contract."""

    kind: DeclarationKind
    pattern: str
    location: Location | None = None
    """Location of the declaration, if it is known."""
    origin: str = ""
    """Its source if that is not the setup itself: ``pyproject.toml``, ``--frozen``."""

    def __str__(self) -> str:
        return f"{self.kind.value} {self.pattern!r}"


@dataclass
class Contract:
    """The declarations of one training setup, and the one that applies to each parameter."""

    declarations: list[Declaration] = field(default_factory=list)
    of: dict[str, Declaration] = field(default_factory=dict)
    """The declaration that counts, by canonical name of a parameter or by name of a norm's running statistics."""
    unmatched: list[Declaration] = field(default_factory=list)
    """Declarations that match no parameter."""

    def declared(self, kind: DeclarationKind, trace: Trace) -> list[tuple[Parameter, Declaration]]:
        """Return the parameters declared so, each with the declaration that applies."""
        return [
            (p, declaration)
            for p in trace.parameters
            if p.in_tree and (declaration := self.of.get(p.fqn)) is not None and declaration.kind is kind
        ]

    def frozen_norms(self, trace: Trace) -> list[tuple[Module, Declaration]]:
        """Return the modules with running statistics that are declared frozen.

        The declaration names the statistics, or all parameters of the module.
        """
        norms = []
        for module in trace.modules:
            statistics = _statistics(module)
            if not module.in_tree or not statistics:
                continue
            own = [self.of.get(trace.parameters[i].fqn) for i in module.parameters]
            declared = [self.of.get(name) for name in statistics]
            for judged in (declared, own):
                first = judged[0] if judged else None
                if first is not None and all(d is not None and d.kind is DeclarationKind.FROZEN for d in judged):
                    norms.append((module, first))
                    break
        return norms


def resolve(trace: Trace, declarations: Sequence[Declaration]) -> Contract:
    """Find out which declaration counts for which parameter.

    Raises:
        TargetError: two declarations contradict each other; names both, the parameters, and where they are written.
    """
    unique = list(dict.fromkeys(declarations))
    names: dict[str, tuple[str, ...]] = {p.fqn: p.all_names for p in trace.parameters if p.in_tree}
    for module in trace.modules:
        if module.in_tree:
            names |= {
                name: (name, *(f"{spelling}.{own}" for spelling in module.spellings))
                for name, own in zip(_statistics(module), module.running_stats, strict=True)
            }
    matched = {d: frozenset(n for n, aliases in names.items() if matches(d.pattern, aliases)) for d in unique}
    contract = Contract(unique, unmatched=[d for d in unique if not matched[d]])
    # the widest first, so that an exception overrides what it is an exception to
    for declaration in sorted(unique, key=lambda d: -len(matched[d])):
        for name in matched[declaration]:
            other = contract.of.get(name)
            if other is not None and other.kind is not declaration.kind and not matched[declaration] < matched[other]:
                both = matched[declaration] & matched[other]
                raise TargetError(_contradiction(trace, other, declaration, both))
            contract.of[name] = declaration
    return contract


def matches(pattern: str, names: Sequence[str]) -> bool:
    """Return True if a pattern is one of the names or a glob that matches one."""
    return pattern in names or any(fnmatch.fnmatchcase(name, pattern) for name in names)


def own_declarations(trace: Trace) -> list[Declaration]:
    """Return the declarations of the setup itself, with their places in user code."""
    setup = trace.setup
    patterns = [(DeclarationKind.TRAINS, pattern) for pattern in setup.trains]
    patterns += [(DeclarationKind.FROZEN, pattern) for pattern in setup.frozen]
    return [Declaration(kind, pattern, _written_at(trace, kind.value, pattern)) for kind, pattern in patterns]


def no_match(trace: Trace, pattern: str) -> str:
    """Return a hint for a pattern without a match: the nearest name, else some that exist."""
    names = [name for p in trace.parameters if p.in_tree for name in p.all_names]
    if any(name.startswith(f"{pattern}.") for name in names):
        return f"it is a module, write '{pattern}.*'"
    if pattern.endswith(".*"):
        parts = [name.split(".") for name in names]
        above = dict.fromkeys(".".join(part[:depth]) for part in parts for depth in range(1, len(part)))
        if near := nearest(pattern.removesuffix(".*"), above):
            return f"did you mean '{near}.*'?"
    elif near := nearest(pattern, names):
        return f"did you mean {near}?"
    return f"there are {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}" if names else "it has none"


def _statistics(module: Module) -> list[str]:
    """Return the names of the running statistics of a module."""
    prefix = f"{module.fqn}." if module.fqn else ""
    return [prefix + name for name in module.running_stats]


def _contradiction(trace: Trace, one: Declaration, other: Declaration, both: frozenset[str]) -> str:
    parameters = [p for p in trace.parameters if p.fqn in both]
    names = summarize_names(parameters, trace.parameters) if parameters else ", ".join(sorted(both))
    places = [_origin(d) for d in (one, other)]
    where = f" ({' and '.join(dict.fromkeys(p for p in places if p))})" if any(places) else ""
    return (
        f"the contract contradicts itself: {one} and {other} both name {names}{where}; drop one, or make it an "
        "exception by naming only a part of what the other names"
    )


def _origin(declaration: Declaration) -> str:
    if declaration.location is not None:
        return f"{declaration.location.path}:{declaration.location.line}"
    return declaration.origin


def _written_at(trace: Trace, kind: str, pattern: str) -> Location | None:
    """Return the place of a pattern in user code, None if it is not written there.

    A place under the key, argument or name `kind` comes first, and functions that ran come before top-level code.
    """
    functions = sorted(executed_functions(trace), key=lambda f: isinstance(f.node, ast.Module))
    tops = [Function(module, module.syntax) for module in dict.fromkeys(f.module for f in functions)]
    elsewhere: Location | None = None
    for function in (*functions, *tops):
        labelled = {id(node) for value in _labelled(function.node, kind) for node in ast.walk(value)}
        for node in ast.walk(function.node):
            if isinstance(node, ast.Constant) and node.value == pattern:
                if id(node) in labelled:
                    return function.module.location(node)
                elsewhere = elsewhere or function.module.location(node)
    return elsewhere


def _labelled(tree: ast.AST, kind: str) -> list[ast.expr]:
    """Return the expressions of ``kind=...``, ``{"kind": ...}`` and assignments to ``...kind``."""
    expressions: list[ast.expr] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == kind:
            expressions.append(node.value)
        elif isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            expressions += [value for key, value in pairs if isinstance(key, ast.Constant) and key.value == kind]
        elif isinstance(node, ast.Assign):
            names = [t.attr if isinstance(t, ast.Attribute) else getattr(t, "id", "") for t in node.targets]
            if any(name.lower().endswith(kind) for name in names):
                expressions.append(node.value)
    return expressions
