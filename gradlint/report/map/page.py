"""The map as one HTML page that opens from disk and loads nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from gradlint.findings import Finding, FlowMap, ParameterState
from gradlint.location import Location
from gradlint.report.excerpt import excerpt
from gradlint.report.map.layers import rows_of
from gradlint.report.map.nodes import Node, Nodes
from gradlint.report.view import View, shown_place
from gradlint.wording import plural, shape_text

_ASSETS = Path(__file__).parents[1] / "assets"
WIDTH = 70
"""Columns of source lines."""
LONGEST = 300
"""Characters of a name; of longer ones the middle is left out."""
_UNSAFE = {ord(char): f"\\u{ord(char):04x}" for char in "<>&"}
"""Characters that could end a script element, or begin a comment in it → escapes of JSON."""


def map_page(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return the map as a page; `findings` may include those of other targets."""
    view = replace(view, width=WIDTH, color=False, terminal=True, encoding="utf-8")
    content = json.dumps(_Content(Nodes(flow_map, findings), view).document(), separators=(",", ":"))
    parts = {
        "title": escape(_short(f"gradlint: {flow_map.overview.target}", view)),
        "data": content.translate(_UNSAFE).replace("##", "#\\u0023"),
        "styles": _asset("map.css"),
        "script": _asset("map.js"),
    }
    return Template(_asset("map.html")).substitute(parts)


@functools.cache
def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _short(text: str, view: View) -> str:
    """Return a text from anywhere as one safe line that is not too long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"
    return view.clean(text)


class _Content:
    """What the page is drawn from, as plain data."""

    def __init__(self, nodes: Nodes, view: View) -> None:
        self._nodes = nodes
        self._view = view
        self._places: dict[Location, dict[str, Any]] = {}
        overview = nodes.map.overview
        self._position = {name: index for index, p in enumerate(overview.parameters) for name in p.names}
        self._module_of = {index: node for node, box in enumerate(nodes.nodes) for index in box.parameters}
        self._cut_of = {index: n for n in range(len(nodes.marks) - 1, -1, -1) for index in nodes.marks[n].parameters}

    def document(self) -> dict[str, Any]:
        """Return it all."""
        nodes = self._nodes
        overview = nodes.map.overview
        loss = next((n for n, node in enumerate(nodes.nodes) if node.kind == "loss"), -1)
        return {
            "nodes": [self._node(node) for node in nodes.nodes],
            "levels": {n: self._level(node) for n, node in enumerate(nodes.nodes) if node.children},
            "parameters": [self._parameter(index, p) for index, p in enumerate(overview.parameters)],
            "reasons": [{"text": self._text(text), "place": self._place(where)} for text, where in nodes.map.reasons],
            "cuts": [
                {
                    "text": self._text(mark.text),
                    "place": self._place(mark.location),
                    "node": mark.node,
                    "parameters": mark.parameters,
                    "findings": mark.findings,
                }
                for mark in nodes.marks
            ],
            "findings": [self._finding(finding) for finding in nodes.findings],
            "flows": [[one, other, flow] for (one, other), flow in nodes.flows().items()],
            "open": sorted(nodes.opened()),
            "loss": loss,
            "facts": f"{plural(nodes.nodes[0].elements, 'parameter')} in {plural(len(overview.modules), 'module')}",
        }

    def _text(self, text: str) -> str:
        return _short(text, self._view)

    def _node(self, node: Node) -> dict[str, Any]:
        line = node.location.line if node.location and node.kind == "calls" else 0
        return {
            "kind": node.kind, "label": self._text(node.label), "name": self._text(node.name),
            "type": self._text(node.type), "parent": node.parent, "children": node.children, "count": node.count,
            "parameters": node.parameters, "states": dict(node.states), "elements": node.elements, "cuts": node.cuts,
            "within": node.cuts_within, "ran": node.ran, "line": line, "place": self._place(node.location),
        }  # fmt: skip

    def _level(self, node: Node) -> dict[str, Any]:
        return {
            "rows": rows_of(node),
            "edges": [[one, other, flow] for (one, other), flow in node.edges.items()],
            "into": list(node.entries.items()),
            "out": list(node.exits.items()),
        }

    def _parameter(self, index: int, parameter: ParameterState) -> dict[str, Any]:
        readers = (self._nodes.of_calls[calls] for calls in self._nodes.map.readers[index])
        starved = parameter.outcome == "no gradient"
        return {
            "name": self._text(parameter.name), "aliases": self._text(", ".join(parameter.names[1:])),
            "shape": shape_text(parameter.shape), "numel": parameter.numel, "state": parameter.outcome,
            "node": self._module_of.get(index, 0), "readers": list(dict.fromkeys(readers)),
            "reason": self._nodes.map.reason[index], "held": self._text(self._held(parameter)),
            "cut": self._cut_of.get(index, -1) if starved else -1,
        }  # fmt: skip

    def _held(self, parameter: ParameterState) -> str:
        parts = []
        for optimizer, group in parameter.groups:
            held = self._nodes.map.overview.optimizers[optimizer]
            rate = held.groups[group].lr
            parts.append(held.label + (f" group {group}" if len(held.groups) > 1 else "")
                         + ("" if rate is None else f", lr {rate:g}"))  # fmt: skip
        return "; ".join(parts)

    def _finding(self, finding: Finding) -> dict[str, Any]:
        named = (self._position[name] for name in finding.parameters if name in self._position)
        return {
            "code": self._text(finding.code), "name": self._text(finding.name), "severity": str(finding.severity),
            "message": self._view.clean(finding.message), "place": self._place(finding.location),
            "fix": self._view.clean(finding.fix.description) if finding.fix else "",
            "related": [[self._view.clean(r.message), self._place(r.location)] for r in finding.related],
            "parameters": list(named),
        }  # fmt: skip

    def _place(self, location: Location | None) -> dict[str, Any] | None:
        """Return a place with the source around it."""
        if location is None:
            return None
        if location not in self._places:
            rows = excerpt(location, self._view, WIDTH)
            self._places[location] = {
                "text": self._text(shown_place(location, self._view.root, column=False)),
                "rows": [[row.gutter, row.text, row.marks] for row in rows],
            }
        return self._places[location]
