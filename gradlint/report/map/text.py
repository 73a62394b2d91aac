"""The map for other programs: DOT for Graphviz, Mermaid for READMEs, JSON for Model Explorer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from gradlint.findings import Finding, FlowMap
from gradlint.report.map.chart import Chart, short, state_of
from gradlint.report.map.nodes import Nodes
from gradlint.report.view import View

_COLORS = {
    "trains": "#0072b2", "frozen": "#7d8894", "no gradient": "#c14600", "unused": "#9aa5b1",
    "not in an optimizer": "#b0508a", "zero learning rate": "#b98500", "unknown": "#6b6b6b", "mixed": "#1b2129",
}  # fmt: skip
"""Outcome → colour of a border."""
_DASHES = {"no gradient": "6 3", "unused": "2 3", "not in an optimizer": "8 3 2 3", "zero learning rate": "1 3"}
"""Outcome → dashes of a border."""


def dot(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a map as a graph for Graphviz."""
    chart = Chart(Nodes(flow_map, findings))
    lines = ["digraph gradient {", '  node [shape=box, style=rounded, fontname="sans-serif"];',
             '  compound=true; fontname="sans-serif";', *_dot_box(chart, 0, 1)]  # fmt: skip
    styles = {1: 'color="#0072b2", penwidth=2', 2: 'color="#c14600", style=dashed, penwidth=2'}
    for arrow in chart.arrows:
        style = styles.get(arrow.flow & 1 or arrow.flow & 2, 'color="#8b95a1", style=dotted')
        lines.append(f"  n{arrow.source} -> n{arrow.target} [{style}];")
    return "\n".join([*lines, "}", ""])


def _dot_box(chart: Chart, number: int, depth: int) -> Iterator[str]:
    node = chart.nodes.nodes[number]
    pad = "  " * min(depth, 20)
    label = "\\n".join(_dot_text(line) for line in chart.words(number))
    color = _COLORS.get(node.state, "#57616d")
    if number in chart.open:
        yield f'{pad}subgraph cluster_{number} {{ label="{label}"; color="{color}"; style=rounded;'
        for child in node.children:
            yield from _dot_box(chart, child, depth + 1)
        yield f"{pad}}}"
        return
    marks = ', peripheries=2, style="rounded,bold"' if node.cuts or node.cuts_within else ""
    if node.state in ("no gradient", "unused", "not in an optimizer") and not marks:
        marks = ', style="rounded,dashed"'
    yield f'{pad}n{number} [label="{label}", color="{color}"{marks}];'


def _dot_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def mermaid(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a map as a Mermaid flowchart, folded to 60 boxes."""
    chart = Chart(Nodes(flow_map, findings))
    lines = ["flowchart TD", *_mermaid_box(chart, 0, 1)]
    thick: list[str] = []
    dashed: list[str] = []
    for place, arrow in enumerate(chart.arrows):
        link = "-->" if arrow.flow & 1 else "-. ✂ .->" if arrow.flow & 2 else "-.->"
        if arrow.flow & 3:
            (thick if arrow.flow & 1 else dashed).append(str(place))
        lines.append(f"  n{arrow.source} {link} n{arrow.target}")
    for state, color in _COLORS.items():
        dashes = f",stroke-dasharray:{_DASHES[state]}" if state in _DASHES else ""
        lines.append(f"  classDef {state.replace(' ', '_')} stroke:{color},stroke-width:2px{dashes}")
    for places, color in ((thick, "#0072b2"), (dashed, "#c14600")):
        if places:
            lines.append(f"  linkStyle {','.join(places)} stroke:{color},stroke-width:2px")
    return "\n".join([*lines, ""])


def _mermaid_box(chart: Chart, number: int, depth: int) -> Iterator[str]:
    node = chart.nodes.nodes[number]
    pad = "  " * min(depth, 20)
    label = "<br>".join(_mermaid_text(line) for line in chart.words(number))
    if number in chart.open:
        yield f'{pad}subgraph b{number}["{label}"]'
        for child in node.children:
            yield from _mermaid_box(chart, child, depth + 1)
        yield f"{pad}end"
    else:
        kind = f":::{node.state.replace(' ', '_')}" if node.state in _COLORS else ""
        shape = ('{{"', '"}}') if node.cuts else ('["', '"]')
        yield f"{pad}n{number}{shape[0]}{label}{shape[1]}{kind}"


def _mermaid_text(text: str) -> str:
    """Return a text without markup; Mermaid writes character references with # alone."""
    return "".join(c if c.isalnum() or c in " .,:()_-–…✂×" else f"#{ord(c)};" for c in text)


def model_explorer(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a map as a graph of Model Explorer; states and cuts are attributes of its nodes."""
    nodes = Nodes(flow_map, findings)
    incoming: dict[int, list[dict[str, Any]]] = {}
    for (source, target), flow in nodes.flows().items():
        edges = incoming.setdefault(target, [])
        edges.append(
            {
                "sourceNodeId": str(source),
                "sourceNodeOutputId": "0",
                "targetNodeInputId": str(len(edges)),
                "metadata": {"flow": "gradient" if flow & 1 else "gradient is lost" if flow & 2 else "data alone"},
            }
        )
    graph = [
        {
            "id": str(number),
            "label": short(node.label),
            "namespace": "/".join(
                short(nodes.nodes[n].label).replace("/", "∕") for n in reversed(nodes.around(node.parent))
            ),
            "incomingEdges": incoming.get(number, []),
            "attrs": [
                {"key": key, "value": value}
                for key, value in (
                    ("state", state_of(node)),
                    ("class", short(node.type)),
                    ("cut", "; ".join(short(nodes.marks[n].text) for n in node.cuts)),
                )
                if value
            ],
        }
        for number, node in enumerate(nodes.nodes)
        if not node.children
    ]
    return json.dumps({"label": "gradient", "graphs": [{"id": "gradient", "nodes": graph}]}, indent=1) + "\n"
