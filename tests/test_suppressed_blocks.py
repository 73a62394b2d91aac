"""Comments on the line above a statement, and around blocks."""

from __future__ import annotations

import json
from pathlib import Path

from cases import each
from snippets import Run, folder, run, source, write

__all__ = ["folder", "run"]

BEFORE, BLAMED, AFTER = "self.a = nn.Linear(3, 3)", "self.a.requires_grad = False", "self.b = nn.Linear(3, 3)"


def net(*lines: str) -> str:
    """A class whose constructor holds these lines; the blamed one gives GL102."""
    head = "class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    tail = "\n    def forward(self, x):\n        return self.a(x)\n"
    return source(head + "".join(f"        {line}\n" for line in lines) + tail)


IGNORE, DISABLE, ENABLE = (f"# gradlint: {kind}[GL102]" for kind in ("ignore", "disable", "enable"))
SILENT = {
    "above": (BEFORE, IGNORE, BLAMED),
    "above, with a reason": (BEFORE, f"{IGNORE} -- why", BLAMED),
    "above, by name": (BEFORE, "# gradlint: ignore[requires-grad-on-module]", BLAMED),
    "above, for all rules": (BEFORE, "# gradlint: ignore", BLAMED),
    "above other comments": (BEFORE, IGNORE, "# another", "", BLAMED),
    "block": (BEFORE, DISABLE, BLAMED, ENABLE, AFTER),
    "block to the end of the indented lines": (BEFORE, DISABLE, BLAMED),
    "block in another order of rules": (
        BEFORE, "# gradlint: disable[GL102, GL601]", "y = 1", BLAMED, "# gradlint: enable[GL601, GL102]",
    ),
    "inner block": (BEFORE, "# gradlint: disable[GL601]", DISABLE, BLAMED, ENABLE, "# gradlint: enable[GL601]"),
}  # fmt: skip
TOLD = {
    "above another statement": (BEFORE, IGNORE, AFTER, BLAMED),
    "block that ends before": (BEFORE, DISABLE, AFTER, ENABLE, BLAMED),
    "block that begins after": (BEFORE, BLAMED, DISABLE, AFTER, ENABLE),
    "of another rule": (BEFORE, "# gradlint: disable[GL601]", BLAMED, "# gradlint: enable[GL601]"),
    "block without rules": (BEFORE, "# gradlint: disable", BLAMED),
    "block that begins behind code": (BEFORE, f"{AFTER}  {DISABLE}", BLAMED),
}


def codes(run: Run) -> list[str]:
    made = json.loads(run("check", "m.py", "--output-format", "json").out)
    return [finding["code"] for finding in made["findings"]]


@each("what", SILENT)
def test_it_is_suppressed(run: Run, folder: Path, what: str) -> None:
    write(folder / "m.py", net(*SILENT[what]))
    assert "GL102" not in codes(run)


@each("what", TOLD)
def test_it_is_reported(run: Run, folder: Path, what: str) -> None:
    write(folder / "m.py", net(*TOLD[what]))
    assert "GL102" in codes(run)


def test_a_block_ends_with_its_indentation(run: Run, folder: Path) -> None:
    text = net(BEFORE, DISABLE, AFTER)
    write(folder / "m.py", text + net(BEFORE, BLAMED).replace("Net", "Other"))
    assert codes(run) == ["GL001", "GL102"]


IDLE = {
    "above": (net(BEFORE, IGNORE, AFTER), net(BEFORE, AFTER)),
    "block": (net(BEFORE, DISABLE, AFTER, ENABLE), net(BEFORE, AFTER)),
    "one rule of a block": (
        net(BEFORE, "# gradlint: disable[GL102, GL999]", BLAMED, "# gradlint: enable[GL102, GL999]"),
        net(BEFORE, DISABLE, BLAMED, ENABLE),
    ),
    "enable alone": (net(BEFORE, ENABLE, AFTER), net(BEFORE, AFTER)),
}


@each("what", IDLE)
def test_an_idle_comment_is_reported_and_both_ends_removed(run: Run, folder: Path, what: str) -> None:
    before, after = IDLE[what]
    path = write(folder / "m.py", before)
    assert codes(run) == ["GL001"]
    run("check", "m.py", "--fix")
    assert path.read_text() == after


def test_a_comment_counts_in_its_cell_alone(run: Run, folder: Path) -> None:
    made = [{"cell_type": "code", "metadata": {}, "outputs": [], "source": text}
            for text in (source("net = nn.Linear(3, 3)\n"), IGNORE, "net.requires_grad = False")]  # fmt: skip
    write(folder / "nb.ipynb", json.dumps({"cells": made, "metadata": {}, "nbformat": 4}))
    out = run("check", "nb.ipynb", "--output-format", "concise").out
    assert "cell 3:1:1: GL102" in out
