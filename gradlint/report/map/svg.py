"""The map as one drawing in SVG, folded to what fits on a page."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from gradlint.findings import Finding, FlowMap
from gradlint.report.map.chart import Chart
from gradlint.report.map.layers import rows_of
from gradlint.report.map.nodes import Nodes
from gradlint.report.view import View, cells

_ASSETS = Path(__file__).parents[1] / "assets"
LETTER = 7.9
"""Width of a letter, in pixels."""
LINE = 17.0
PAD = 10.0
GAP = 30.0
"""Between boxes."""
LANE = 10.0
"""Width of a lane."""


@dataclass
class _Placed:
    """A box with its size, and its place in the box around it."""

    number: int
    lines: list[str]
    width: float
    height: float
    x: float = 0.0
    y: float = 0.0
    inner: list[_Placed] = field(default_factory=list)
    lanes: dict[tuple[int, int], tuple[float, float, float]] = field(default_factory=dict)
    """(row, box) → the middle, top and bottom of its lane in that row."""
    row_of: dict[int, int] = field(default_factory=dict)
    """Box in it → its row."""


def svg(flow_map: FlowMap, findings: Sequence[Finding], view: View) -> str:
    """Return a map as a drawing."""
    chart = Chart(Nodes(flow_map, findings))
    whole = _measure(chart, 0)
    width, height = whole.width + 2 * PAD, whole.height + 2 * PAD
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}" role="img" aria-label="gradient map">',
        f"<style>\n{_styles()}</style>",
        f'<rect class="back" width="{width:.0f}" height="{height:.0f}"/>',
        *_drawn(chart, whole, PAD, PAD),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


@functools.cache
def _styles() -> str:
    return (_ASSETS / "map_svg.css").read_text(encoding="utf-8")


def _measure(chart: Chart, number: int) -> _Placed:
    """Return a box with the boxes in it, sized and placed."""
    lines = chart.words(number)
    width = max(cells(line) for line in lines) * LETTER + 2 * PAD
    box = _Placed(number, lines, width, len(lines) * LINE + 1.4 * PAD)
    if number not in chart.open:
        return box
    rows = [
        [(item, _measure(chart, item) if item >= 0 else None) for item in row]
        for row in rows_of(chart.nodes.nodes[number])
    ]
    widths = [sum(b.width if b else LANE for _, b in row) + GAP * (len(row) - 1) for row in rows]
    box.width = max(box.width, max(widths, default=0.0) + 3 * PAD)
    y = box.height + PAD
    for place, (row, used) in enumerate(zip(rows, widths, strict=True)):
        x = (box.width - used) / 2
        height = max((b.height for _, b in row if b), default=LINE)
        for item, placed in row:
            if placed is None:
                box.lanes[place, -1 - item] = (x + LANE / 2, y, y + height)
                x += LANE + GAP
                continue
            placed.x, placed.y = x, y + (height - placed.height) / 2
            box.row_of[item] = place
            box.inner.append(placed)
            x += placed.width + GAP
        y += height + GAP
    box.height = y - GAP + 2 * PAD
    return box


def _drawn(chart: Chart, box: _Placed, x: float, y: float) -> Iterator[str]:
    """Yield the elements of a box whose corner is at (x, y)."""
    node = chart.nodes.nodes[box.number]
    kind = node.state.replace(" ", "-") or "none"
    round_ = 14 if node.kind in ("calls", "inputs", "loss") else 7
    cut = " cut" if node.cuts else ""
    yield (
        f'<g><title>{escape(", ".join(box.lines))}</title><rect class="box {kind}{cut}" x="{x:.1f}" y="{y:.1f}" '
        f'width="{box.width:.1f}" height="{box.height:.1f}" rx="{round_}"/>'
    )
    for place, line in enumerate(box.lines):
        style = "name" if place == 0 else "mark" if line.startswith("✂") else "dim"
        middle = x + (PAD if box.inner else box.width / 2)
        anchor = "start" if box.inner else "middle"
        yield (
            f'<text class="{style}" text-anchor="{anchor}" x="{middle:.1f}" y="{y + PAD + 7 + place * LINE:.1f}">'
            f"{escape(line)}</text>"
        )
    yield "</g>"
    inner = {placed.number: placed for placed in box.inner}
    for (source, target), flow in node.edges.items():
        if source in inner and target in inner:
            yield from _edge(box, inner[source], inner[target], flow, x, y)
    for placed in box.inner:
        yield from _drawn(chart, placed, x + placed.x, y + placed.y)


def _edge(around: _Placed, source: _Placed, target: _Placed, flow: int, x: float, y: float) -> Iterator[str]:
    """Yield an arrow between two boxes of one level."""
    kind = "gradient" if flow & 1 else "lost" if flow & 2 else "data"
    at, end = x + source.x + source.width / 2, x + target.x + target.width / 2
    first, last = around.row_of[source.number], around.row_of[target.number]
    if last <= first:  # a loop in the code
        side = x + max(source.x + source.width, target.x + target.width)
        top, bottom = y + target.y + target.height / 2, y + source.y + source.height / 2
        right, other = x + source.x + source.width, x + target.x + target.width
        yield f'<path class="edge {kind}" d="M{right:.1f} {bottom:.1f}C{side + 20:.1f} {bottom:.1f} ' \
              f'{side + 20:.1f} {top:.1f} {other:.1f} {top:.1f}"/>'  # fmt: skip
        return
    height = y + source.y + source.height
    path = f"M{at:.1f} {height:.1f}"
    stops = [around.lanes[row, source.number] for row in range(first + 1, last) if (row, source.number) in around.lanes]
    for lane, top, bottom in [*((x + a, y + b, y + c) for a, b, c in stops), (end, y + target.y, y + target.y)]:
        half = (top - height) / 2
        path += f"C{at:.1f} {height + half:.1f} {lane:.1f} {top - half:.1f} {lane:.1f} {top:.1f}V{bottom:.1f}"
        at, height = lane, bottom
    yield f'<path class="edge {kind}" d="{path}"/><path class="tip {kind}" d="M{at:.1f} {height:.1f}l-4 -8h8z"/>'
