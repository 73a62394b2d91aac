"""The map in a browser, in the report and from the command line."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest
from browser import BROWSER, driven
from cases import each
from snippets import Run, folder, run, write
from table import FIXTURES, builders, rules

from gradlint.engine.check import check_target
from gradlint.engine.options import Options
from gradlint.report import render
from gradlint.report.map.nodes import Nodes
from gradlint.report.map.page import map_page
from gradlint.report.map.render import SUFFIXES
from gradlint.report.view import View

__all__ = ["folder", "run"]

CUT = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.side, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.body(x) + self.side(x).detach())


def build():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {"model": model, "inputs": (torch.randn(2, 4),), "optimizer": optimizer, "loss": lambda out: out.sum()}
"""
SCRIPT = f"""{CUT}
model = Net()
optimizer = torch.optim.Adam(model.parameters())
while True:
    optimizer.zero_grad()
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
"""


# -- the command ------------------------------------------------------------------------------------------------------


@each("suffix", sorted(SUFFIXES))
def test_the_suffix_decides_what_is_written(run: Run, folder: Path, suffix: str) -> None:
    write(folder / "m.py", CUT)
    done = run("map", "m.py:build", "-o", f"flow{suffix}")
    text = (folder / f"flow{suffix}").read_text(encoding="utf-8")
    assert (done.code, done.out) == (0, "")
    assert "detach" in text and text.startswith({".svg": "<svg", ".html": "<!DOCTYPE", ".json": "{"}.get(suffix, ""))


def test_another_suffix_is_refused(run: Run, folder: Path) -> None:
    write(folder / "m.py", CUT)
    done = run("map", "m.py:build", "-o", "flow.pdf")
    assert done.code == 2 and ".mmd" in done.err and not (folder / "flow.pdf").exists()


@each("body", ["def build():\n    raise ValueError('no data')\n", "build = None\n"])
def test_what_cannot_be_recorded_leaves_the_file_as_it_was(run: Run, folder: Path, body: str) -> None:
    write(folder / "broken.py", body)
    write(folder / "flow.svg", "mine")
    done = run("map", "broken.py:build", "-o", "flow.svg")
    assert (done.code, (folder / "flow.svg").read_text()) == (2, "mine")


def test_of_a_script(run: Run, folder: Path) -> None:
    write(folder / "train.py", SCRIPT)
    done = run("map", "-o", "flow.json", "train.py")
    assert done.code == 0, done.err
    [graph] = json.loads((folder / "flow.json").read_text())["graphs"]
    cut = [node for node in graph["nodes"] if any(attribute["key"] == "cut" for attribute in node["attrs"])]
    assert ["detach" in node["label"] for node in cut] == [True]


def test_an_option_after_a_script_is_the_scripts(run: Run, folder: Path) -> None:
    write(folder / "train.py", SCRIPT)
    done = run("map", "train.py", "-o", "flow.json")
    assert done.code == 2 and "-o FILE: put it before the script" in done.err


# -- in the report ----------------------------------------------------------------------------------------------------


def frames(page: str) -> list[str]:
    """The pages in the frames of a page."""
    return [html.unescape(text) for text in re.findall(r'srcdoc="([^"]*)"', page)]


@each("arguments", [("--output-format", "html", "--output-file", "r.html"), ("--also", "html:r.html")])
def test_a_report_as_a_page_holds_the_map(run: Run, folder: Path, arguments: tuple[str, ...]) -> None:
    write(folder / "m.py", CUT)
    assert run("check", "m.py:build", *arguments).code == 1
    [frame] = frames((folder / "r.html").read_text(encoding="utf-8"))
    assert frame.startswith("<!DOCTYPE html>") and "m.py:build" in frame


def test_the_map_in_a_report_is_the_map_alone(tmp_path: Path) -> None:
    write(tmp_path / "m.py", CUT)
    report = check_target(f"{tmp_path / 'm.py'}:build", rules(), Options(flow_map=True))
    view = View(root=tmp_path)
    assert frames(render("html", report, view)) == [map_page(report.maps[0], report.findings, view)]


def test_a_report_on_source_alone_has_no_map(run: Run, folder: Path) -> None:
    write(folder / "m.py", CUT)
    assert "<iframe" not in run("check", "m.py", "--output-format", "html").out


# -- which places are marked ------------------------------------------------------------------------------------------


CUTS = ("GL401", "GL402", "GL403", "GL404")


@pytest.mark.slow
@each("name", ["detached_upstream", "no_grad_upstream", "nondifferentiable_upstream", "value_roundtrip_upstream"])
def test_the_marked_cut_is_the_line_of_the_finding(name: str) -> None:
    wrong = {}
    for builder in builders(FIXTURES / f"{name}.py", "bad_"):
        report = check_target(builder.target, rules(), Options(flow_map=True))
        told = {
            f.location.line for f in report.findings if f.code in ("GL401", "GL402", "GL403", "GL404") and f.location
        }
        marks = [mark for one in report.maps for mark in Nodes(one, report.findings).marks]
        marked = {mark.location.line for mark in marks if mark.location is not None}
        if not told <= marked:
            wrong[builder.name] = sorted(told - marked)
    assert wrong == {}


# -- in a browser -----------------------------------------------------------------------------------------------------

needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The map of a model with one cut."""
    place = tmp_path_factory.mktemp("map")
    write(place / "m.py", CUT)
    report = check_target(f"{place / 'm.py'}:build", rules(), Options(flow_map=True))
    return map_page(report.maps[0], report.findings, View(root=place))


@pytest.mark.slow
@needs_browser
def test_a_parameter_is_found_and_its_path_lit_by_the_keyboard(page: str, tmp_path: Path) -> None:
    told = driven(
        page,
        """
        press("/", document.body);
        told.focused = document.activeElement.id;
        type("side.weight");
        press("Enter");
        told.lit = count(".edge.lit");
        told.panel = text("panel");
        """,
        tmp_path,
    )
    assert (told["errors"], told["focused"]) == ([], "search")
    assert told["lit"] > 0 and "side.weight" in told["panel"] and "no gradient" in told["panel"]


@pytest.mark.slow
@needs_browser
def test_the_next_cut_shows_its_finding_and_source(page: str, tmp_path: Path) -> None:
    told = driven(page, 'press("n", document.body); told.panel = text("panel");', tmp_path)
    assert told["errors"] == [] and "GL401" in told["panel"]
    assert "self.head(self.body(x) + self.side(x).detach())" in told["panel"] and "side.*" in told["panel"]


@pytest.mark.slow
@needs_browser
def test_boxes_open_and_close_by_the_keyboard(page: str, tmp_path: Path) -> None:
    told = driven(
        page,
        """
        const first = document.querySelector("#map .box");
        first.focus();
        told.before = count("#map .box");
        press("ArrowLeft");
        told.closed = count("#map .box");
        press("ArrowRight");
        told.opened = count("#map .box");
        told.arrows = count("#map .tip");
        """,
        tmp_path,
    )
    assert (told["errors"], told["closed"]) == ([], 1)
    assert told["before"] >= told["opened"] > 1 and told["arrows"] > 0
