"""Notebooks as targets and as scripts, and the magics for IPython."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cases import each
from snippets import Run, folder, run, write
from test_notebooks import cell, document, lab

__all__ = ["folder", "run"]

IMPORTS = "%matplotlib inline\n!pip install torch\nimport torch\nfrom torch import nn"
NET = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Linear(4, 8)
        self.b = nn.Linear(8, 2)

    def forward(self, x):
        return self.b(self.a(x).detach())"""
BUILD = """def build(rate=0.1):
    model = Net()
    model.b.bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), rate)
    return {"model": model, "inputs": torch.randn(3, 4), "optimizer": optimizer, "loss": torch.sum}"""
WAIT = "import asyncio\nawait asyncio.sleep(0)\n"
TRAIN = """model = Net()
optimizer = torch.optim.SGD(model.parameters(), 0.1)
for _ in range(9):
    loss = model(torch.randn(3, 4)).pow(2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
display(loss)"""


def book(path: Path, *sources: str) -> None:
    write(path, lab(document(*(cell(s, "markdown" if s.startswith("#") else "code") for s in sources))))


@pytest.mark.slow
def test_a_target_in_a_notebook(run: Run, folder: Path) -> None:
    book(folder / "nb.ipynb", IMPORTS, "# Model", NET, BUILD, "raise SystemExit('never run')")
    out = run("check", "nb.ipynb:build", "--output-format", "json").out
    report = json.loads(out)
    places = [(f["code"], f["path"], f["cell"], f["line"]) for f in report["findings"]]
    assert places == [("GL401", "nb.ipynb", 3, 8), ("GL301", "nb.ipynb", 4, 4)]
    assert "frozen at nb.ipynb:cell 4:3, before" in report["findings"][1]["message"]
    assert (
        "2 lines of magics and shell commands are skipped, the first is `%matplotlib inline` at cell 1:1; the cell "
        "behind build (5) is not run"
    ) in [note["message"] for note in report["notes"]]
    for name, found in {"concise": "nb.ipynb:cell 3:8:23: GL401", "agent": "nb.ipynb:cell 3:8", "sarif": "cell 3:8:23",
                        "github": "nb.ipynb:cell 3:8:23: GL401", "full": "nb.ipynb:cell 3:8:23\n"}.items():  # fmt: skip
        assert found in run("check", "nb.ipynb:build", "--output-format", name).out, name


@pytest.mark.slow
def test_a_notebook_that_trains(run: Run, folder: Path) -> None:
    book(folder / "nb.ipynb", IMPORTS, NET, WAIT, TRAIN)
    made = run("run", "nb.ipynb")
    assert (made.code, "nb.ipynb:cell 2:8:23\n" in made.out) == (1, True)
    assert "called here: nb.ipynb:cell 4:4:12" in made.out
    assert "2 lines of magics and shell commands are skipped" in " ".join(made.out.split())


BROKEN = {
    "no JSON": ("{", "nb.ipynb cannot be run: it is not valid JSON"),
    "another language": (
        json.dumps({"cells": [], "nbformat": 4, "metadata": {"kernelspec": {"language": "R"}}}),
        "nb.ipynb cannot be run: its code is r, not Python",
    ),
    "a syntax error": (lab(document(cell("x"), cell("y = (\nz"))), "nb.ipynb:cell 2:1 cannot be run: '(' was never"),
    "raises": (lab(document(cell("x = 1"), cell("\n1 / x[0]"))), 'nb.ipynb:cell 2", line 2, in <module>'),
}  # fmt: skip


@each("name", BROKEN)
def test_what_is_broken_is_said(run: Run, folder: Path, name: str) -> None:
    data, said = BROKEN[name]
    write(folder / "nb.ipynb", data)
    made = run("check", "nb.ipynb:build", "--output-format", "concise")
    assert (made.code, said in made.err) == (2, True), made.err


SESSION = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
def cell(text):
    made = shell.run_cell(text)
    assert made.success, text
    return made.result
cell("%load_ext gradlint")
cell('''{net}''')
cell("report = %gradlint check --input 3,4 Net()")
cell("print('LINE', [f.code for f in report.findings], report.targets[0].target)")
report = cell('''%%gradlint
{train}''')
print("CELL", [f.code for f in report.findings], type(shell.user_ns["model"]).__name__)
cell('''%%gradlint
x = 1''')
cell("%gradlint check --inputs 3 Net()")
cell("%gradlint")
"""


@pytest.mark.slow
def test_magics(folder: Path) -> None:
    pytest.importorskip("IPython", reason="IPython is not installed")
    net, train = f"import torch\nfrom torch import nn\n{NET}", TRAIN.replace("display(loss)", "").strip()
    write(folder / "session.py", SESSION.format(net=net, train=train))
    environment = {**os.environ, "IPYTHONDIR": str(folder), "NO_COLOR": "1"}
    made = subprocess.run([sys.executable, "session.py"], capture_output=True, text=True, env=environment)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "LINE ['GL401'] Net()" in made.stdout
    assert "CELL ['GL401'] Net" in made.stdout
    assert "gradlint: nothing trained in this cell" in made.stdout
    assert "gradlint: there is no option --inputs; write %gradlint check EXPRESSION" in made.stdout
    assert made.stdout.count("write %gradlint check EXPRESSION") == 2


@pytest.mark.slow
def test_magics_in_a_notebook(folder: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    sources = ["%load_ext gradlint", f"import torch\nfrom torch import nn\n{NET}", f"%%gradlint\n{TRAIN}"]
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources])
    nbclient.NotebookClient(made, timeout=120, resources={"metadata": {"path": str(folder)}}).execute()
    shown = made.cells[2].outputs[-1]["data"]
    assert "GL401" in shown["text/plain"] and "self.a(x).detach()" in shown["text/plain"]
    assert "  In[2]:10:23\n" in shown["text/plain"] and "ipykernel" not in shown["text/plain"]
    assert shown["text/html"].startswith("<div")
