"""How long a map takes: to lay out and write, to open in a browser, and to lead from a parameter to its cut.

    python tests/bench/map.py [--browser PATH]

For a model of 400 blocks, one of 10,000 operations and one of 50,000 modules, each with one detach(), it prints: the
CPU seconds of recording and judging (for comparison), those of making the page from the recording, the size of the
file, the milliseconds until a headless browser has laid out the first picture, and those from a name typed into the
search until the path to the cut is lit. The browser is asked by its own clock.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from html import unescape
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradlint.engine.check import check_setup
from gradlint.engine.options import Options
from gradlint.report.map.page import map_page
from gradlint.report.view import View
from gradlint.rulekit import registry

PROBE = """<script>
addEventListener("load", () => {
  document.body.getBoundingClientRect();
  const told = {picture: performance.now()}, search = document.getElementById("search");
  const key = (name) => search.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
  const begin = performance.now();
  search.focus();
  search.value = "%s";
  search.dispatchEvent(new Event("input"));
  key("Enter");
  document.body.getBoundingClientRect();
  told.path = performance.now() - begin;
  told.lit = document.querySelectorAll(".lit").length;
  const element = document.createElement("pre");
  element.id = "told";
  element.textContent = JSON.stringify(told);
  document.body.append(element);
});
</script>
"""


class Block(nn.Module):
    """A residual block of a norm and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        return x + self.down(torch.relu(self.up(self.norm(x))))


class Chain(nn.Module):
    """Parts in a row, the first half cut off."""

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.first, self.parts = nn.Linear(4, 4), nn.ModuleList(parts)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        for number, part in enumerate(self.parts):
            x = part(x)
            if number == len(self.parts) // 2:
                x = x.detach()
        return x


class Ops(nn.Module):
    """Many operations in one module, each on a line of its own."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        lines = "\n".join(f"    x = x * 0.999 + {number}e-9" for number in range(count // 2))
        space: dict[str, Any] = {}
        exec(f"def run(x):\n{lines}\n    return x", space)
        self.run = space["run"]

    def forward(self, x: Any) -> Any:
        return self.last(self.run(self.first(x)).detach())


MODELS = {
    "400 blocks": lambda: Chain([Block() for _ in range(400)]),
    "10,000 operations": lambda: Ops(10_000),
    "50,000 modules": lambda: Chain([nn.Sequential(*(nn.Identity() for _ in range(98)), Block()) for _ in range(485)]),
}


def measure(name: str, browser: str | None, folder: Path) -> list[str]:
    """Return the row of one model."""
    begun = time.process_time()
    setup = {"model": MODELS[name](), "inputs": (torch.ones(1, 4),), "loss": lambda out: out.sum()}
    report = check_setup(setup, registry.load(packs=False).rules, Options(flow_map=True))
    judged = time.process_time()
    page = map_page(report.maps[0], report.findings, View(root=folder))
    written = time.process_time()
    row = [f"{judged - begun:.1f}", f"{written - judged:.2f}", f"{len(page) / 1e6:.1f}"]
    if browser is None:
        return [*row, "–", "–"]
    path = folder / "map.html"
    path.write_text(page.replace("</body>", PROBE % "first.weight" + "</body>", 1), encoding="utf-8")
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}",
               "--dump-dom", path.as_uri()]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    found = re.search(r'<pre id="told">(.*?)</pre>', done.stdout, re.DOTALL)
    told = json.loads(unescape(found[1])) if found else {}
    if not told.get("lit"):
        return [*row, "none", "none"]
    return [*row, f"{told['picture']:.0f}", f"{told['path']:.0f}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome"))
    browser = parser.parse_args().browser
    print("| model | judged, s | page, s | MB | first picture, ms | path to the cut, ms |\n|---|---|---|---|---|---|")
    for name in MODELS:
        with tempfile.TemporaryDirectory() as folder:
            print("|", name, "|", " | ".join(measure(name, browser, Path(folder))), "|", flush=True)


if __name__ == "__main__":
    sys.exit(main())
