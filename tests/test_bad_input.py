"""Odd setups: each gives one clear message that says what to do, with the user's traceback and none of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import pytest
from cases import each

from gradlint.cli import main
from gradlint.engine.check import check_target
from gradlint.engine.options import Options
from gradlint.findings import Report
from gradlint.rulekit import registry

ROOT = Path(__file__).resolve().parent.parent
RULES = registry.load(packs=False).rules
HEAD = """\
import os, sys
import torch
from torch import nn

X = torch.ones(2, 4)

def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)

def full(**other):
    model = nn.Linear(4, 2)
    return {"model": model, "inputs": (X,), "optimizer": sgd(model), "loss": lambda out: out.sum(), **other}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = nn.Linear(4, 2)

"""


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)

    def check(body: str, *, strict: bool = False) -> Report:
        (tmp_path / "m.py").write_text(HEAD + textwrap.dedent(body))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return check_target("m.py:build", RULES, Options(strict=strict))

    return check


NET = "class M(Net):\n    def forward(self, x, *more):\n        {}\ndef build(): return full(model=M(), optimizer=None)"
ERRORS = {
    "step without backward": (
        "def build(): return full(inputs=None, loss=None, step=lambda: None)",
        "step() ran no backward pass",
    ),
    "build raises": ("def build(): raise OSError('no data')", "build() raised OSError: no data"),
    "exception without text": (
        "class E(Exception):\n    def __str__(self): raise ValueError\ndef build(): raise E",
        "build() raised E",
    ),
    "exception that is no Exception": (
        "class E(BaseException): ...\ndef build(): raise E('no')",
        "build() raised E: no",
    ),
    "recursion": ("def build(): return build()", "build() raised RecursionError"),
    "exits": ("def build(): sys.exit(3)", "build() called sys.exit(3)"),
    "exits in forward": (
        NET.format("sys.exit('bye')"),
        "the forward with float32[2, 4] (given) called sys.exit('bye')",
    ),
    "forward raises": (
        NET.format("raise KeyError('k')"),
        "the forward with float32[2, 4] (given) raised KeyError: 'k'",
    ),
    "found inputs raise": (
        "class M(Net):\n    def forward(self, x, graph): return self.lin(x) + graph.nodes\ndef build(): return M()",
        "found no inputs that M runs with",
    ),
    "nothing": ("def build(): nn.Linear(4, 2)", "build() returned None (is a `return` missing?)"),
    "number": ("def build(): return 3", "build() returned int 3, expected a model"),
    "list": ("def build(): return [1]", "whose member 0 is int 1"),
    "no module": ("def build(): return full(model={})", "'model' is an empty dict"),
    "class for model": ("def build(): return full(model=nn.Linear)", "the class Linear, not an instance"),
    "class for optimizer": ("def build(): return full(optimizer=torch.optim.SGD)", "write SGD(...)"),
    "unknown key": ("def build(): return full(criterium=1)", "unknown key 'criterium'"),
    "near key": ("def build(): return full(lossfn=1)", "did you mean 'loss'?"),
    "loader for inputs": (
        "def build(): return full(inputs=torch.utils.data.DataLoader([X]))",
        "give one batch of it, next(iter(...))",
    ),
    "iterator for inputs": ("def build(): return full(inputs=iter([X]))", "give one batch of it"),
    "no inputs for any": (
        "def build(): return full(model={'g': nn.Linear(2, 2), 'd': nn.Linear(2, 2)}, inputs=None)",
        "add 'inputs', a dict with keys of 'model' (g, d)",
    ),
    "no model": ("def build(): return {'step': lambda: None}", "the training setup has no model: return 'model'"),
    "no parameters": ("def build(): return nn.Sequential(nn.ReLU())", "Sequential has no parameters"),
    "no parameters, optimizer": (
        "def build(): return nn.ReLU(), torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)",
        "ReLU has no parameters",
    ),
    "loss is a float": ("def build(): return full(loss=lambda out: out.sum().item())", "returned a float instead of"),
    "loss is None": ("def build(): return full(loss=lambda out: None)", "the loss function returned None"),
    "loss is an empty list": ("def build(): return full(loss=lambda out: [])", "the loss function returned a list"),
    "loss raises": ("def build(): return full(loss=lambda out: out.nothing)", "the loss raised AttributeError"),
    "loss needs more": ("def build(): return full(loss=lambda out, y: out)", "write loss=lambda output: criterion("),
    "loss is a name": ("def build(): return full(loss='mse')", "'loss' is str 'mse', expected a function"),
    "empty generator": ("def build():\n    if 0: yield", "a generator that yields nothing"),
}


@each("name", ERRORS)
def test_error(check, name: str) -> None:  # type: ignore[no-untyped-def]
    body, expected = ERRORS[name]
    report = check(body)
    [failure] = report.errors
    assert expected in failure.message and "\n" not in failure.message
    assert str(ROOT / "gradlint") not in failure.traceback and "torch_function" not in failure.traceback
    assert (report.findings, report.targets) == ([], [])


def test_backward_that_reaches_nothing_is_an_error(check) -> None:  # type: ignore[no-untyped-def]
    report = check(
        "w = torch.ones(2, requires_grad=True)\n"
        "def build(): return full(optimizer=None, loss=None, step=lambda: w.sum().backward())"
    )
    [failure] = report.errors
    assert "no backward pass of step() reaches a parameter of the model" in failure.message


NOTES = {
    "nothing trainable": ("def build(): return nn.Linear(4, 2).requires_grad_(False)", "all parameters are frozen", []),
    "optimizer of another model": (
        "def build(): return full(optimizer=sgd(nn.Linear(4, 2)))",
        "SGD contains none of the model's parameters",
        ["GL304"],
    ),
    "NaN weights": (
        "def build():\n    setup = full()\n    setup['model'].weight.data.fill_(float('nan'))\n    return setup",
        "NaN or infinite, and so is weight",
        [],
    ),
    "no return in forward": (
        NET.format("self.lin(x)").replace("optimizer=None", "optimizer=None, loss=None"),
        "the forward returned None",
        ["GL405"],
    ),
}


@each("name", NOTES)
def test_note(check, name: str) -> None:  # type: ignore[no-untyped-def]
    body, expected, codes = NOTES[name]
    report = check(body)
    assert report.errors == [] and [f.code for f in report.findings] == codes
    assert any(expected in note.message for note in report.notes), report.notes


QUIET = {
    "scalar in a tuple": "def build(): return full(loss=None) | {'loss': lambda out: (out.sum(), {})}",
    "generator": "def build():\n    yield full()",
    "optimizer over an image": (
        "def build():\n"
        "    image = torch.rand(2, 4, requires_grad=True)\n"
        "    model = nn.Linear(4, 2).requires_grad_(False)\n"
        "    return {'model': model, 'inputs': (image,), 'optimizer': torch.optim.Adam([image], lr=0.1)}"
    ),
    "lazy": "def build(): return {'model': nn.LazyLinear(3), 'inputs': (X,)}",
    "lazy, run before": (
        "def build():\n    model = nn.LazyLinear(3)\n    model(X)\n"
        "    return {'model': model, 'inputs': (X,), 'optimizer': sgd(model)}"
    ),
    "attribute that has no length": (
        "class Odd(tuple):\n    def __len__(self): raise NotImplementedError\n"
        "def build():\n    model = nn.Linear(4, 2)\n    model.odd = Odd([1])\n"
        "    return full(model=model, optimizer=sgd(model))"
    ),
    "scripted": "def build(): return torch.jit.script(nn.Sequential(nn.Linear(4, 2)))",
    "scripted, in an optimizer": (
        "def build():\n    model = torch.jit.script(nn.Sequential(nn.Linear(4, 2)))\n"
        "    return model, torch.optim.SGD(model.parameters(), lr=0.1)"
    ),
}


@each("name", QUIET)
def test_quiet(check, name: str) -> None:  # type: ignore[no-untyped-def]
    report = check(QUIET[name])
    assert (report.errors, report.findings) == ([], [])
    assert [note for note in report.notes if note.code != "GL003"] == []


def test_checkpoint_of_what_has_no_parameters_is_recorded_whole(check) -> None:  # type: ignore[no-untyped-def]
    body = "checkpoint(torch.tanh, self.lin(x), use_reentrant=True)"
    report = check("from torch.utils.checkpoint import checkpoint\n" + NET.format(f"return {body}"))
    assert (report.errors, report.findings, report.notes) == ([], [], [])


REFUSED_LOSSES = {
    "out.sum(1)": "the loss function returned a tensor[2] instead of a scalar",
    "(out, out.sum())": "the loss function returned a tensor[",
    "{'loss': out.sum(1)}": "the loss function returned a tensor[2] instead of a scalar",
    "out.sum() * 1j": "the loss function returned a complex scalar",
    "out.sum().item()": "the loss function returned a float instead of a scalar tensor",
    "None": "the loss function returned None instead of a scalar tensor",
}


@pytest.mark.parametrize("loss", REFUSED_LOSSES)
def test_loss_that_backward_refuses_is_an_error(check, loss) -> None:  # type: ignore[no-untyped-def]
    [error] = check(f"def build(): return full(loss=lambda out: {loss})").errors
    assert error.message.startswith(REFUSED_LOSSES[loss])


@pytest.mark.parametrize("loss", ["out.sum(1).mean(0, keepdim=True)", "[out.sum()]", "{'loss': out.sum()}"])
def test_loss_that_backward_takes_is_no_error(check, loss) -> None:  # type: ignore[no-untyped-def]
    assert check(f"def build(): return full(loss=lambda out: {loss})").errors == []


def test_strict_makes_findings_of_what_was_not_recorded(check) -> None:  # type: ignore[no-untyped-def]
    body = QUIET["scripted"]
    assert [note.code for note in check(body).notes] == ["GL003"]
    report = check(body, strict=True)
    [finding] = report.findings
    assert (finding.code, finding.name, str(finding.severity)) == ("GL003", "partial-recording", "warning")
    assert finding.fix is not None and report.notes == []


COMMANDS = [
    (["check", "m.py:biuld"], "did you mean 'build'"),
    (["check", "n.py:build"], "did you mean m.py?"),
    (["check", "m.py:build", "--selct", "GL401"], "--select"),
    (["check", "m.py:build", "--select", "GL4O1"], "did you mean GL401?"),
    (["check", "m.py:build", "--ignore", "detached-upsteam"], "did you mean detached-upstream?"),
    (["check", "m.py:build", "--input", "2,4:flaot32"], "did you mean float32?"),
    (["why", "m.py:build", "wieght"], "did you mean weight?"),
    (["chek", "m.py:build"], "gradlint check"),
]


@each(("arguments", "expected"), COMMANDS)
def test_command_names_the_nearest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.py").write_text(HEAD + "def build(): return full()")
    assert main(arguments) == 2
    printed = capfd.readouterr()
    assert expected in " ".join((printed.out + printed.err).split())


NOISY = """\
print("import noise")
def build():
    import atexit
    print("build noise")
    os.write(1, b"noise of C\\n")
    os.system("echo noise of a child")
    atexit.register(print, "late noise")
    return full()
"""


def test_stdout_stays_json(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(HEAD + NOISY)
    (tmp_path / "bad.py").write_text("print('noise')\n1 / 0")
    command = [sys.executable, "-m", "gradlint", "check", "m.py:build", "bad.py:build", "--output-format", "json"]
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path})
    told = json.loads(done.stdout)
    assert (done.returncode, len(told["targets"]), len(told["errors"])) == (2, 1, 1)
    assert done.stderr.count("noise") >= 5


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_while_build_hangs(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(
        "import pathlib, time\ndef build():\n    pathlib.Path('started').touch()\n    time.sleep(600)\n"
    )
    path = os.pathsep.join(p for p in (str(ROOT), os.environ.get("PYTHONPATH", "")) if p)
    process = subprocess.Popen(
        [sys.executable, "-m", "gradlint", "check", "m.py:build", "--output-format", "json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    while not (tmp_path / "started").exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, json.loads(out)["errors"][0]["message"]) == (130, "interrupted")
    assert "Traceback" not in err
