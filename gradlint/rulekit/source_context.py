"""One source file as a rule judges it, and the findings that the rule reports there."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gradlint.findings import Edit, Finding, Fix, Related, Reporter, Severity
from gradlint.location import Location
from gradlint.source.file import SourceModule


class SourceContext:
    """One parsed source file, as a rule sees it."""

    def __init__(self, module: SourceModule, target: str = "") -> None:
        self.module = module
        """The file: its syntax tree, what its names mean, what kinds of things its expressions give."""
        self.target = target or module.path
        """The target, as the user named it."""

    def finding(
        self,
        rule: Reporter,
        message: str,
        at: ast.AST | Location,
        *,
        related: Iterable[Related] = (),
        fix: Fix | None = None,
        severity: Severity | None = None,
        parameters: Iterable[str] = (),
    ) -> Finding:
        """Return a finding of a rule.

        Parameters are named only if the file itself spells out their names.
        """
        return Finding(
            target=self.target,
            code=rule.code,
            name=rule.name,
            severity=rule.severity if severity is None else severity,
            message=message,
            location=at if isinstance(at, Location) else self.module.location(at),
            parameters=tuple(parameters),
            related=tuple(related),
            fix=fix,
        )

    def related(self, message: str, node: ast.AST) -> Related:
        """Return a second place that explains a finding."""
        return Related(message, self.module.location(node))

    def replacement(self, node: ast.AST, text: str) -> Edit:
        """Return the edit that replaces a node by another text."""
        return Edit(self.module.location(node), text)
