"""The boxes of a map that a chart without a page shows, and what flows between them."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass

from gradlint.report.map.nodes import Node, Nodes

LONGEST = 60
"""Characters of a label."""


@dataclass(frozen=True)
class Arrow:
    """Flow from one box to another, both closed."""

    source: int
    target: int
    flow: int
    """As in `FlowMap.edges`."""


class Chart:
    """A map with some boxes open.

    Args:
        nodes: all the boxes.
        most: number of boxes to show at most.
    """

    def __init__(self, nodes: Nodes, most: int = 60) -> None:
        self.nodes = nodes
        self.open = nodes.opened(most)
        shown = {0}
        for number in sorted(self.open, key=lambda n: len(nodes.around(n))):
            shown.update(nodes.nodes[number].children)
        flows: dict[tuple[int, int], int] = {}
        for one, other, flow in nodes.map.edges:
            edge = tuple(next(n for n in nodes.around(nodes.of_calls[end]) if n in shown) for end in (one, other))
            if edge[0] != edge[1]:
                flows[edge[0], edge[1]] = flows.get((edge[0], edge[1]), 0) | flow
        self.arrows = [Arrow(source, target, flow) for (source, target), flow in flows.items()]

    def words(self, number: int) -> list[str]:
        """Return the lines of text on a box: its name, its state, its cuts."""
        node = self.nodes.nodes[number]
        name = f"{node.label} ({node.type})" if node.type and node.type != node.label else node.label
        lines = [name, state_of(node)]
        lines += [f"✂ {mark.text}{_at(mark.location)}" for n in node.cuts for mark in [self.nodes.marks[n]]]
        if not node.cuts and node.cuts_within and number not in self.open:
            lines.append(f"✂ {node.cuts_within} within")
        return [short(line) for line in lines if line]


def _at(location: object) -> str:
    line = getattr(location, "line", 0)
    return f", line {line}" if line else ""


def state_of(node: Node) -> str:
    """Return the outcomes of the parameters in a box, in words."""
    if len(node.states) > 1:
        return "mixed: " + ", ".join(f"{count} {state}" for state, count in node.states.items())
    return node.state


def short(text: str) -> str:
    """Return a text as one line without control characters, cut where it is too long."""
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text[: 2 * LONGEST])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
