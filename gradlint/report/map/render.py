"""The formats of a map: the suffix of the file decides."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from gradlint.errors import GradlintError, UsageError
from gradlint.findings import Finding, FlowMap
from gradlint.report.map import page, svg, text
from gradlint.report.view import View
from gradlint.system import writing
from gradlint.system.legible import one_line

Renderer = Callable[[FlowMap, Sequence[Finding], View], str]

SUFFIXES: Mapping[str, Renderer] = {
    ".html": page.map_page,
    ".svg": svg.svg,
    ".dot": text.dot,
    ".mmd": text.mermaid,
    ".json": text.model_explorer,
}
"""Suffix of a file → the function that writes its content."""


def save(maps: Sequence[FlowMap], findings: Sequence[Finding], view: View, path: str) -> None:
    """Write the map of a target to a file, whose suffix decides the format.

    Raises:
        GradlintError: there is no map, or the file cannot be written.
        UsageError: no map is written in a file of this name.
    """
    suffix = suffix_of(path)
    if not maps:
        raise GradlintError("there is no map: the target failed, as the errors of the report say")
    try:
        writing.write(path, rendered(maps[0], findings, view, suffix).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise GradlintError(f"{one_line(path)} cannot be written: {error.strerror or error}") from error


def suffix_of(path: str) -> str:
    """Return the suffix of a file for a map.

    Raises:
        UsageError: no map is written in a file of this name.
    """
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in SUFFIXES:
        raise UsageError(f"{one_line(path)}: the suffix decides what is written: {', '.join(SUFFIXES)}")
    return suffix


def rendered(flow_map: FlowMap, findings: Sequence[Finding], view: View, suffix: str) -> str:
    """Return a map in the format of a suffix."""
    return SUFFIXES[suffix](flow_map, findings, view)
