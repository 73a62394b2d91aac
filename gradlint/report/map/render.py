"""The formats of a map: the suffix of the file decides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gradlint.findings import Finding, FlowMap
from gradlint.report.map import page, svg, text
from gradlint.report.view import View

Renderer = Callable[[FlowMap, Sequence[Finding], View], str]

SUFFIXES: Mapping[str, Renderer] = {
    ".html": page.map_page,
    ".svg": svg.svg,
    ".dot": text.dot,
    ".mmd": text.mermaid,
    ".json": text.model_explorer,
}
"""Suffix of a file → the function that writes its content."""


def rendered(flow_map: FlowMap, findings: Sequence[Finding], view: View, suffix: str) -> str:
    """Return a map in the format of a suffix."""
    return SUFFIXES[suffix](flow_map, findings, view)
