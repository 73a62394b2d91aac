"""The rows of one level of a map: a layered layout with lanes for flow that passes rows.

Boxes are given in the order of their first run, so that flow goes down, and flow back up is a loop in the code. Widths
and heights are left to whoever draws: rows and the order in them depend on neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gradlint.report.map.nodes import Node

WIDEST = 6
"""Boxes of one row."""
_SWEEPS = 4


def rows_of(node: Node) -> list[list[int]]:
    """Return the rows of the boxes in a box, from top to bottom.

    A negative number is a lane: ``-1 - box`` keeps room for the flow that leaves that box and passes the row.
    """
    order = {child: place for place, child in enumerate(node.children)}
    forward = [(a, b) for a, b in node.edges if order[a] < order[b]]
    rows = _ranked(node.children, forward, order)
    rank = {child: number for number, row in enumerate(rows) for child in row}
    lanes: dict[tuple[int, int], int] = {}
    links: list[tuple[int, int, int]] = []
    for source, target in sorted(forward, key=lambda edge: rank[edge[1]]):
        for number in range(rank[source] + 1, rank[target]):
            if (number, source) not in lanes:
                lanes[number, source] = -1 - source
                rows[number].append(-1 - source)
                links.append((number - 1, source if number - 1 == rank[source] else -1 - source, -1 - source))
        above = source if rank[target] - 1 == rank[source] else -1 - source
        if rank[target] > rank[source]:
            links.append((rank[target] - 1, above, target))
    _sort(rows, links)
    return rows


def _ranked(children: Sequence[int], forward: Iterable[tuple[int, int]], order: dict[int, int]) -> list[list[int]]:
    """Return the boxes in rows, each below those that it reads; those without flow are last."""
    depth: dict[int, int] = {}
    tied = {end for edge in forward for end in edge}
    into: dict[int, list[int]] = {}
    for source, target in forward:
        into.setdefault(target, []).append(source)
    for child in children:
        if child in tied:
            depth[child] = max((depth[source] + 1 for source in into.get(child, ())), default=0)
    out: dict[int, list[int]] = {}
    for source, target in forward:
        out.setdefault(source, []).append(target)
    for child in reversed(children):  # boxes that read nothing here stand close to those that read them
        if child in tied and child not in into:
            depth[child] = max(min(depth[target] for target in out[child]) - 1, 0)
    wide: dict[int, list[int]] = {}
    for child in children:
        wide.setdefault(depth.get(child, len(children)), []).append(child)
    rows = []
    for _, row in sorted(wide.items()):
        rows += [row[at : at + WIDEST] for at in range(0, len(row), WIDEST)]
    return rows


def _sort(rows: list[list[int]], links: Iterable[tuple[int, int, int]]) -> None:
    """Order each row by the middle of what its boxes are linked to, down and up in turn."""
    down: list[dict[int, list[int]]] = [{} for _ in rows]
    up: list[dict[int, list[int]]] = [{} for _ in rows]
    for number, above, below in links:
        down[number + 1].setdefault(below, []).append(above)
        up[number].setdefault(above, []).append(below)
    for sweep in range(_SWEEPS):
        numbers = range(1, len(rows)) if sweep % 2 == 0 else range(len(rows) - 2, -1, -1)
        step, linked = (-1, down) if sweep % 2 == 0 else (1, up)
        for number in numbers:
            other = _places(rows[number + step])
            near = linked[number]
            own = _places(rows[number])

            def middle(item: int, near: dict[int, list[int]] = near, other: dict[int, float] = other,
                       own: dict[int, float] = own) -> float:  # fmt: skip
                ends = [other[end] for end in near.get(item, ()) if end in other]
                return sum(ends) / len(ends) if ends else own[item]

            rows[number].sort(key=middle)


def _places(row: Sequence[int]) -> dict[int, float]:
    """Return the place of each box in a row, from 0 to 1."""
    return {item: (place + 0.5) / len(row) for place, item in enumerate(row)}
