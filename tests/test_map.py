"""The map of a training setup: its boxes, its flow, and the files that show it."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradlint.engine.check import check_setup
from gradlint.engine.options import Options
from gradlint.findings import Report
from gradlint.report.map.layers import rows_of
from gradlint.report.map.nodes import MOST, Nodes
from gradlint.report.map.page import map_page
from gradlint.report.map.render import rendered
from gradlint.report.map.svg import svg
from gradlint.report.map.text import dot, mermaid
from gradlint.report.view import View
from gradlint.rulekit.registry import load

HOSTILE = "</script><!--\"'&#\u2028\u202e${x}"


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lin = nn.Linear(2, 2)

    def forward(self, x):
        return x + self.lin(x)


class Net(nn.Module):
    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(blocks)))
        self.side = nn.Linear(2, 2)
        self.head = nn.Linear(2, 1)

    def forward(self, x):
        side = self.side(x).detach()  # the cut
        return self.head(self.blocks(x) + side)


def build(blocks: int = 3):
    return {"model": Net(blocks), "inputs": (torch.ones(1, 2),), "loss": lambda out: out.sum()}


def mapped(setup, name: str = "<setup>") -> Report:
    return check_setup(setup, [], Options(flow_map=True), name)


def nodes_of(setup) -> Nodes:
    report = mapped(setup)
    return Nodes(report.maps[0], report.findings)


class Parsed(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.scripts: list[str] = []
        self.kinds: list[str] = []
        self.links: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        if tag == "script":
            self._inside = True
            self.scripts.append("")
        self.kinds.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag):
        self._inside = self._inside and tag != "script"

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data


def page_of(setup, name: str = "<setup>") -> Parsed:
    report = mapped(setup, name)
    return Parsed(map_page(report.maps[0], report.findings, View()))


def test_repeated_blocks_are_one_box():
    nodes = nodes_of(build).nodes
    assert [(node.label, node.count) for node in nodes if node.kind == "repeat"] == [("0–2", 3)]


def test_the_cut_is_marked_at_its_line():
    [mark] = nodes_of(build).marks
    assert "the cut" in Path(__file__).read_text(encoding="utf-8").splitlines()[mark.location.line - 1]


def test_gradient_is_lost_before_and_behind_the_cut():
    nodes = nodes_of(build)
    [mark] = nodes.marks
    level = nodes.nodes[nodes.nodes[mark.node].parent]
    assert [flow for edge, flow in level.edges.items() if mark.node in edge] == [2, 2]


def test_gradient_flows_through_what_trains():
    nodes = nodes_of(build)
    labels = {node.label: number for number, node in enumerate(nodes.nodes)}
    level = nodes.nodes[nodes.nodes[labels["head"]].parent]
    assert [flow for (_, target), flow in level.edges.items() if target == labels["head"]] == [1]


def test_a_level_has_few_boxes():
    nodes = nodes_of(lambda: build(1)).nodes + nodes_of(build(3 * MOST)).nodes
    assert max(len(node.children) for node in nodes) <= MOST


def test_each_box_stands_in_one_row():
    nodes = nodes_of(build)
    for node in nodes.nodes:
        placed = sorted(item for row in rows_of(node) for item in row if item >= 0)
        assert placed == sorted(node.children)


def test_findings_do_not_move_boxes():
    report = check_setup(build, load(packs=False).rules, Options(flow_map=True))
    assert report.findings
    with_findings, without = (Nodes(report.maps[0], findings) for findings in (report.findings, []))
    assert [rows_of(node) for node in with_findings.nodes] == [rows_of(node) for node in without.nodes]


def test_the_page_loads_nothing():
    assert page_of(build).links == ["data:,"]


def test_hostile_names_stay_data():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_parameter(HOSTILE, nn.Parameter(torch.ones(1)))

        def forward(self, x):
            return x * self._parameters[HOSTILE]

    setup = {"model": Odd(), "inputs": (torch.ones(1),), "loss": lambda out: out.sum()}
    page = page_of(setup, HOSTILE)
    plain = page_of(build)
    assert page.kinds == plain.kinds
    [parameter] = json.loads(page.scripts[0])["parameters"]
    assert parameter["name"] == "</script><!--\"'&#\\u2028\\u202e${x}"


def test_long_names_are_cut():
    page = page_of(build, "x" * 10_000)
    assert max(len(part) for part in re.findall("x+", page.scripts[0])) < 1_000


@pytest.mark.parametrize("name", ["map.css", "map.js", "map.html"])
def test_assets_name_no_place_in_the_network(name):
    from gradlint.report.map.page import _asset

    assert not re.search(r"(?<!org/2000)https?://(?!www\.w3\.org/2000/svg)", _asset(name))


def drawn(setup, suffix: str, name: str = "<setup>") -> str:
    report = mapped(setup, name)
    return rendered(report.maps[0], report.findings, View(), suffix)


def test_a_drawing_holds_a_box_for_each_that_is_shown():
    root = ElementTree.fromstring(drawn(build, ".svg"))
    titles = [title.text.split(",")[0] for title in root.iter("{http://www.w3.org/2000/svg}title")]
    assert {"side (Linear)", "head (Linear)", "detach", "loss"} <= set(titles)


@settings(max_examples=25, deadline=None, database=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_name_is_text_in_a_drawing(text):
    [flow_map] = MAPS
    odd = replace(flow_map, overview=replace(flow_map.overview, target=HOSTILE + text))
    plain, other = (ElementTree.fromstring(svg(m, [], View())) for m in (flow_map, odd))
    assert [part.tag for part in plain.iter()] == [part.tag for part in other.iter()]


@settings(max_examples=25, deadline=None, database=None)
@given(text=st.text(st.characters(codec="utf-8"), max_size=40))
@pytest.mark.parametrize("write", [dot, mermaid])
def test_any_name_is_text_in_a_graph(write, text):
    [flow_map] = MAPS
    odd = replace(flow_map, overview=replace(flow_map.overview, target=HOSTILE + text))
    plain, other = (re.sub(r'"(?:\\.|[^"\\])*"', '""', write(m, [], View())) for m in (flow_map, odd))
    assert plain == other


def test_model_explorer_knows_each_edge_and_state():
    [graph] = json.loads(drawn(build, ".json"))["graphs"]
    known = {node["id"] for node in graph["nodes"]}
    assert {edge["sourceNodeId"] for node in graph["nodes"] for edge in node["incomingEdges"]} <= known
    assert {"key": "state", "value": "no gradient"} in next(n for n in graph["nodes"] if n["label"] == "side")["attrs"]


def test_a_flowchart_has_at_most_sixty_boxes():
    assert len(re.findall(r"(?m)^ +n\d+[\[{]", drawn(lambda: build(100), ".mmd"))) <= 60


MAPS = mapped(build).maps
