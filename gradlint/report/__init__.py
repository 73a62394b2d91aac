"""Reports: findings turned into text. Nothing in here prints; every renderer returns a string."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from gradlint.findings import Report
    from gradlint.report.view import View
    from gradlint.rulekit.registry import Entry

FORMATS = {
    "full": "full",
    "concise": "concise",
    "json": "as_json",
    "sarif": "sarif",
    "github": "github",
    "html": "html",
    "markdown": "markdown",
    "gitlab": "gitlab",
    "junit": "junit",
    "rdjson": "rdjson",
    "json-lines": "json_lines",
    "agent": "agent",
}
"""Each output format by name → the module of this room that writes it, loaded when it is used."""
WHOLE = frozenset({"json", "sarif", "gitlab", "junit", "rdjson"})
"""The formats whose readers need one whole document, also of a check that was interrupted."""
DOCUMENTS = WHOLE | {"github", "html", "json-lines", "markdown"}
"""The formats for programs, which are written as they are."""
WITHOUT_NOTES = frozenset({"github", "gitlab", "junit", "rdjson", "sarif"})
"""The formats that have no place for notes, which go to stderr."""


class Format(Protocol):
    """A module that writes reports in one format."""

    def render(self, report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
        """Return the report as text; `rules` are those that ran, for formats that describe them."""


def render(name: str, report: Report, view: View, rules: Sequence[Entry] = ()) -> str:
    """Return a report in the output format of that name."""
    return cast(Format, importlib.import_module(f"gradlint.report.{FORMATS[name]}")).render(report, view, rules)
