"""``gradlint run``: scripts as they are, and as they should not be."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

import gradlint
from gradlint.cli.script_command import split
from gradlint.load.crash import traceback_of_crash
from gradlint.recorder.facts.training_log import TrainingLog
from gradlint.recorder.patience import Patience

ROOT = Path(__file__).resolve().parent.parent
HEAD = """
import atexit, os, signal, subprocess, sys, threading, time
import torch
from torch import nn

torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters(), 1e-3)
x, y = torch.randn(6, 4), torch.randn(6, 2)


def iteration(clear=True):
    if clear:
        optimizer.zero_grad()
    loss = nn.functional.mse_loss(model(x), y)
    loss.backward()
    optimizer.step()
    return loss
"""


def run(folder: Path, body: str, *options: str, after: tuple[str, ...] = (), head: str = HEAD):
    """Run a script; the process and the report."""
    script = folder / "train.py"
    script.write_text(head + textwrap.dedent(body), encoding="utf-8")
    command = [sys.executable, "-m", "gradlint", "run", "--output-format", "json", *options, "train.py", *after]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done, json.loads(done.stdout)


def codes(report) -> list[str]:
    """The codes of the findings."""
    return [finding["code"] for finding in report["findings"]]


RIGHT = {
    "ends by itself": "iteration()\niteration()",
    "goes on for ever": "while True: iteration()",
    "os._exit": "for _ in range(2): iteration()\nos._exit(3)",
    "own signal handlers": """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        while True: iteration()
        """,
    "redirected stdout": "sys.stdout = sys.stderr = open('log.txt', 'w')\nwhile True: iteration()",
    "closed stdout": "sys.stdout.close()\nos.close(1)\nwhile True: iteration()",
    "another directory": "os.chdir('/')\nwhile True: iteration()",
    "patched torch": """
        original = torch.Tensor.backward
        torch.Tensor.backward = lambda self, *a, **k: original(self, *a, **k)
        torch.optim.Adam.step = torch.optim.Adam.step
        while True: iteration()
        """,
    "exceptions held": """
        while True:
            try: iteration()
            except Exception: pass
        """,
    "every exception held": """
        while True:
            try: iteration()
            except BaseException: pass
        """,
    "a network frozen for the other's turn": """
        critic = nn.Linear(2, 1)
        second = torch.optim.SGD(critic.parameters(), 0.1)
        while True:
            critic.requires_grad_(False)
            optimizer.zero_grad()
            critic(model(x)).mean().backward()
            optimizer.step()
            critic.requires_grad_(True)
            second.zero_grad()
            (critic(y) - critic(model(x).detach())).mean().backward()
            second.step()
        """,
    "a network frozen for a turn that is left out": """
        critic = nn.Linear(2, 1)
        second = torch.optim.SGD(critic.parameters(), 0.1)
        for i in range(1000):
            critic.requires_grad_(False)
            if i % 2:
                optimizer.zero_grad()
                critic(model(x)).mean().backward()
                optimizer.step()
            critic.requires_grad_(True)
            second.zero_grad()
            (critic(y) - critic(model(x).detach())).mean().backward()
            second.step()
        """,
    "a maker in a module of lazy parts": """
        import types
        lazy = types.ModuleType("lazy")
        lazy._modules = {"parts"}  # as that of transformers has them
        lazy.Trainer = lambda optimizer: optimizer
        optimizer = lazy.Trainer(torch.optim.SGD(model.parameters(), 0.1))
        while True: iteration()
        """,
    "exits with 0": "for _ in range(2): iteration()\nsys.exit(0)",
    "a sampler before the training": """
        with torch.no_grad():
            for _ in range(1000): model(x)
        while True: iteration()
        """,
    "a daemon thread": """
        threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
        while True: iteration()
        """,
    "workers": """
        from torch.utils.data import DataLoader, TensorDataset
        for _ in range(100):
            for a, b in DataLoader(TensorDataset(x, y), 2, num_workers=2): iteration()
        """,
}


def mostly_slow(names):
    """Mark all cases but the first two as slow: each starts a process that imports torch."""
    names = list(names)
    return [*names[:2], *(pytest.param(name, marks=pytest.mark.slow) for name in names[2:])]


@pytest.mark.parametrize("name", mostly_slow(RIGHT))
def test_right_script_is_clean(tmp_path, name):
    done, report = run(tmp_path, RIGHT[name])
    assert (done.returncode, report["errors"], codes(report)) == (0, [], []), done.stderr


NO_VERDICT = {
    "never trains": ("print('nothing to do')", "the script never trained"),
    "only evaluates": ("with torch.no_grad(): model(x)", "1 call of the script's models and no backward pass"),
    "raises": ("iteration()\nraise ValueError('no data')", "the script raised ValueError: no data"),
    "raises before": ("raise FileNotFoundError('data.csv')", "the script raised FileNotFoundError: data.csv"),
    "backward from a vector": ("model(x).backward()", "the script raised RuntimeError: grad can be implicitly created"),
    "wrong usage": ("sys.exit(2)", "the script called sys.exit(2)"),
    "another thread": (
        "t = threading.Thread(target=lambda: [iteration() for _ in range(5)])\nt.start()\nt.join()",
        "the script trains outside of its main thread, where gradlint cannot follow it",
    ),
    "another thread, for ever": (
        "def work():\n    while True: iteration()\nt = threading.Thread(target=work)\nt.start()\nt.join()",
        "the script trains outside of its main thread, where gradlint cannot follow it",
    ),
    "os._exit": ("os._exit(0)", "the script called os._exit(0)"),
    "killed": ("os.kill(os.getpid(), signal.SIGKILL)", "ended by signal 9"),
}


@pytest.mark.parametrize("name", mostly_slow(NO_VERDICT))
def test_script_without_a_verdict_says_why(tmp_path, name):
    body, expected = NO_VERDICT[name]
    done, report = run(tmp_path, body)
    assert done.returncode == 2
    assert len(report["errors"]) == 1 and expected in report["errors"][0]["message"], report["errors"]


def test_the_main_thread_is_judged_though_another_one_trains_too(tmp_path):
    body = """
    other = nn.Linear(4, 2)
    own = torch.optim.SGD(other.parameters(), 0.1)
    def work():
        for _ in range(5):
            other(x).sum().backward()
            own.step()
    thread = threading.Thread(target=work)
    thread.start()
    while True: iteration(clear=False)
    """
    _, report = run(tmp_path, body)
    assert (codes(report), report["errors"]) == (["GL501"], [])


def test_findings_stand_on_the_lines_of_the_script(tmp_path):
    done, report = run(tmp_path, "while True: iteration(clear=False)")
    (finding,) = report["findings"]
    assert done.returncode == 1 and finding["code"] == "GL501"
    assert (tmp_path / "train.py").read_text(encoding="utf-8").splitlines()[finding["line"] - 1].strip() == (
        "loss.backward()"
    )
    assert finding["parameters"] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_fault_of_gradlints_own_is_told_as_such_and_the_script_ended_as_ever(tmp_path):
    body = """
    from gradlint.recorder.calls.values import Tensors
    def add(*args): raise IndexError("broken")
    iteration()
    Tensors.add = add
    try:
        while True: iteration()
    except Exception as error: open("raised", "w").write(repr(error))
    finally: open("ended", "w")
    """
    done, report = run(tmp_path, body)
    assert done.returncode == 2 and report["findings"] == []
    (error,) = report["errors"]
    assert error["message"] == "gradlint itself failed while it recorded (IndexError: broken); please report it"
    assert (tmp_path / "ended").exists() and not (tmp_path / "raised").exists()


def test_a_fault_in_a_hook_is_not_told_as_the_scripts(tmp_path):
    _, report = run(tmp_path, "import gradlint.recorder.hooks.gradients as ledger\nledger.mark = None\niteration()")
    (error,) = report["errors"]
    assert error["message"].startswith("gradlint itself failed in the script (TypeError: ")


MISTAKES = ["optimizer.zero_grad(1, 2, 3)", "model(x, y)", "torch.optim.SGD()", "model.train(1, 2)", "x @ x"]


@pytest.mark.parametrize(
    "mistake", [MISTAKES[0], *(pytest.param(text, marks=pytest.mark.slow) for text in MISTAKES[1:])]
)
def test_a_wrong_call_is_the_scripts(tmp_path, mistake):
    _, report = run(tmp_path, f"iteration()\n{mistake}")
    (error,) = report["errors"]
    assert error["message"].startswith("the script raised ")


LAYERWISE = """
class Layer(nn.Linear):
    def __init__(self, width):
        super().__init__(4, width)
        self.act = nn.ReLU()
        self.own = torch.optim.SGD([self.weight], 0.1)

    def forward(self, x):
        return self.act(nn.functional.linear(x, self.weight, self.bias))

layers = [Layer(8), Layer(6)]
for layer in layers:
    for _ in range(20):
        layer.own.zero_grad()
        layer.forward(x).square().mean().backward()
        layer.own.step()
"""


@pytest.mark.slow
def test_modules_whose_forward_is_called_by_hand_are_followed(tmp_path):
    _, report = run(tmp_path, LAYERWISE)
    assert [(f["code"], f["parameters"]) for f in report["findings"]] == [("GL302", ["bias"])]
    _, report = run(tmp_path, LAYERWISE.replace("[self.weight]", "self.parameters()"))
    assert (report["findings"], report["notes"]) == ([], [])


OWN = """
atexit.register(lambda: print("at exit"))
print("arguments", sys.argv)
print("read", repr(sys.stdin.read()))

class Log:
    def __init__(self, path): self.me, self.file = self, open(path, "w")

model.log = Log("module.txt")
one, other = Log("own.txt"), open("global.txt", "wb")
atexit.register(lambda: one.file.write(" and more"))
for file in (one.file, model.log.file): file.write("written")
other.write(b"written")
try:
    while True: iteration()
finally:
    open("saved.txt", "w").write("saved")
"""


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """One run of a script with things of its own to end: its folder, the process and the report."""
    folder = tmp_path_factory.mktemp("ended")
    done, report = run(folder, OWN, after=("--lr", "1e-3", "-v"))
    assert (done.returncode, report["errors"]) == (0, []), done.stderr
    return folder, done


def test_arguments_output_and_teardown_are_the_scripts_own(ended):
    folder, done = ended
    assert "arguments ['train.py', '--lr', '1e-3', '-v']" in done.stderr
    assert "at exit" in done.stderr and (folder / "saved.txt").read_text() == "saved"


def test_what_is_left_open_is_written(ended):
    folder, _ = ended
    left = [(folder / name).read_text() for name in ("own.txt", "module.txt", "global.txt")]
    assert left == ["written and more", "written", "written"]


def test_what_finalizes_itself_does(tmp_path):
    """Also where it was made, and survived a collection, before any model."""
    before = """
    import gc, zipfile
    class Holder:
        def __init__(self): self.me, self.archive = self, zipfile.ZipFile("out.zip", "w")
    holder = Holder()
    gc.collect()
    """
    script = textwrap.dedent(before) + HEAD + "holder.archive.writestr('name', 'content')\nwhile True: iteration()\n"
    run(tmp_path, "", head=script)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("name") == b"content"


def test_what_a_handler_holds_finalizes_itself(tmp_path):
    """A registered function holds the globals of the script, as long as these are not cleared."""
    before = """
    import signal, zipfile
    class Holder:
        def __init__(self): self.me, self.archive = self, zipfile.ZipFile("out.zip", "w")
    holder = Holder()
    signal.signal(signal.SIGTERM, lambda *_: print(holder))
    """
    script = textwrap.dedent(before) + HEAD + "holder.archive.writestr('name', 'content')\nwhile True: iteration()\n"
    run(tmp_path, "", head=script)
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        assert archive.read("name") == b"content"


def test_the_main_module_is_the_script_at_exit(tmp_path):
    body = """
    import __main__
    weight = 71
    atexit.register(lambda: print("weight", sys.modules["__main__"].weight, __main__.weight, file=sys.stderr))
    iteration()
    """
    assert "weight 71 71" in run(tmp_path, textwrap.dedent(body))[0].stderr


def test_stdin_is_empty(ended):
    assert "read ''" in ended[1].stderr


def test_a_module_is_run_as_python_does(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "parts.py").write_text(HEAD)
    (package / "train.py").write_text("from .parts import iteration\nfor _ in range(5): iteration(clear=False)\n")
    command = [sys.executable, "-m", "gradlint", "run", "--output-format", "json", "-m", "package.train"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert codes(json.loads(done.stdout)) == ["GL501"], done.stderr


@pytest.mark.parametrize("beside", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_modules_are_found_as_by_python(tmp_path, beside):
    """Beside the script, and not in the folder that it is run from."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    ((folder if beside else tmp_path) / "shared_parts.py").write_text("COUNT = 2\n", encoding="utf-8")
    body = "import shared_parts\nfor _ in range(shared_parts.COUNT): iteration()\n"
    (folder / "train.py").write_text(HEAD + body, encoding="utf-8")
    command = [sys.executable, "-m", "gradlint", "run", "--output-format", "json", str(Path("scripts", "train.py"))]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, "No module named 'shared_parts'" in done.stdout) == ((0, False) if beside else (2, True))


def test_steps_are_counted(tmp_path):
    done, _ = run(tmp_path, "for i in range(50):\n    print('iteration', i)\n    iteration()", "--steps", "5")
    assert "iteration 4" in done.stderr and "iteration 6" not in done.stderr


LATER = """
head = nn.Linear(2, 1)
both = nn.ModuleList([model, head])
for _ in range(9): iteration()
"""


def test_parameters_that_no_recorded_step_trains_are_told(tmp_path):
    _, report = run(tmp_path, LATER)
    [note] = report["notes"]
    assert note["message"].startswith("not judged: 1.* (2 tensors, 3 parameters), which no recorded step trains")


@pytest.mark.slow
def test_the_target_of_a_network_is_no_later_stage(tmp_path):
    _, report = run(tmp_path, LATER.replace("nn.Linear(2, 1)", "copy.deepcopy(model)"), head=f"import copy\n{HEAD}")
    assert report["notes"] == []


SPLITS = {
    "train.py --lr 1 -h": ([], ["train.py", "--lr", "1", "-h"]),
    "--steps 5 train.py --steps 7": (["--steps", "5"], ["train.py", "--steps", "7"]),
    "-q --steps=5 train.py": (["-q", "--steps=5"], ["train.py"]),
    "train.py -- --lr 1": ([], ["train.py", "--lr", "1"]),
    "train.py -- -- --lr 1": ([], ["train.py", "--", "--lr", "1"]),
    "train.py x -- y": ([], ["train.py", "x", "--", "y"]),
    "-- -train.py -v": ([], ["-train.py", "-v"]),
    "-m package.train --lr 1": (["-m", "package.train"], ["--lr", "1"]),
    "-m package.train -- --lr 1": (["-m", "package.train"], ["--lr", "1"]),
    "-qmpackage.train -m x": (["-qmpackage.train"], ["-m", "x"]),
    "-qm package.train -m x": (["-qm", "package.train"], ["-m", "x"]),
    "--steps -m train.py": (["--steps", "-m"], ["train.py"]),
    "--strict": (["--strict"], []),
    "": ([], []),
}


@pytest.mark.parametrize("line", SPLITS)
def test_what_follows_the_script_belongs_to_it(line):
    assert split(line.split(), {"--steps", "-m"}) == SPLITS[line]


def test_an_option_of_gradlint_after_the_script_is_told_if_the_script_refuses_it(tmp_path):
    head = "import argparse\nargparse.ArgumentParser().parse_args()\n"
    _, report = run(tmp_path, "", after=("--strict",), head=head)
    [error] = report["errors"]
    assert error["message"].endswith("--strict went to the script; to give it to gradlint, write it before train.py")


def test_a_launcher_is_told_and_not_run(tmp_path):
    command = [sys.executable, "-m", "gradlint", "run", "-m", "torch.distributed.run", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "torchrun starts the script in other processes" in done.stdout


def after_(limit: int | None, calls: int, passes: int = 0, seconds: float = 0.0) -> bool:
    """Whether patience is lost after calls and backward passes without progress."""
    training = TrainingLog()
    patience = Patience(training, limit)
    patience.is_lost(0)
    training.backwards += [None] * passes
    with pytest.MonkeyPatch.context() as patch:
        if not passes:
            now = time.monotonic()
            patch.setattr("time.monotonic", lambda: now + seconds)
        return patience.is_lost(calls)


@pytest.mark.parametrize(
    ("lost", "case"),
    [
        (False, {"limit": None, "calls": 100_000}),
        (False, {"limit": None, "calls": 400, "seconds": 1000.0}),
        (True, {"limit": None, "calls": 500, "seconds": 61.0}),
        (True, {"limit": 20, "calls": 20}),
        (False, {"limit": 20, "calls": 20, "passes": 1}),
        (True, {"limit": None, "calls": 500, "passes": 500}),
    ],
)
def test_patience_is_lost_without_progress_only(lost, case):
    assert after_(**case) is lost


MANY_CALLS = {
    "transforms without parameters": """
        class Flip(nn.Module):
            def forward(self, x): return x.flip(-1)
        flip = Flip()
        while True:
            for _ in range(30): x = flip(x)
            iteration()
        """,
    "calls between the backward passes": """
        while True:
            for _ in range(15): model(x)
            iteration()
        """,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MANY_CALLS)
def test_many_calls_with_progress_do_not_stop_a_script(tmp_path, name):
    _, report = run(tmp_path, MANY_CALLS[name], "--max-batches", "20")
    assert (report["findings"], report["notes"], report["errors"]) == ([], [], [])


def test_a_long_epoch_before_the_first_step_is_bounded_and_told(tmp_path):
    body = "while True:\n    loss = model(x).sum() / 1000\n    loss.backward()"
    done, report = run(tmp_path, body, "--max-batches", "20")
    assert any("--max-batches" in note["message"] for note in report["notes"]), report
    assert done.returncode == 1 and codes(report) == ["GL503"]


@pytest.mark.slow
def test_evaluation_between_the_steps_is_not_what_batches_are_counted_for(tmp_path):
    body = """
    while True:
        iteration()
        model.eval()
        with torch.no_grad():
            for _ in range(100): model(x)
        model.train()
    """
    _, report = run(tmp_path, body, "--max-batches", "100")
    assert (report["findings"], report["notes"]) == ([], [])


@pytest.mark.slow
def test_a_script_that_takes_too_long_is_ended(tmp_path):
    began = time.monotonic()
    done, report = run(tmp_path, "while True:\n    time.sleep(0.05)\n    model(x)", "--timeout", "8")
    assert done.returncode == 2 and "8 s" in report["errors"][0]["message"]
    assert time.monotonic() - began < 60


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_nothing_keeps_running(tmp_path):
    body = """
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    apart = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    open("pids.txt", "w").write(f"{child.pid} {apart.pid} {os.getpid()}")
    while True: iteration()
    """
    done, report = run(tmp_path, body)
    assert report["errors"] == [], done.stderr
    pids = map(int, (tmp_path / "pids.txt").read_text().split())
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    if sys.platform.startswith("linux"):
        assert alive == []


INTERRUPTIBLE = """
import atexit, os, signal, time, torch
atexit.register(lambda: open("at exit", "w"))
open("pid", "w").write(str(os.getpid()))
try:
    while True:
        open("alive", "w").close()
        time.sleep(0.1)
finally: open("finally", "w")
"""
STUBBORN = INTERRUPTIBLE.replace(
    "while", "for n in ('SIGINT', 'SIGTERM'): signal.signal(getattr(signal, n), signal.SIG_IGN)\n    while"
)


def ended_by(folder: Path, script: str, *signals: int) -> tuple[int, set[str], bool]:
    """Run a script and send signals to gradlint: the exit code, the files that are left, whether the script lives."""
    (folder / "train.py").write_text(script, encoding="utf-8")
    (folder / "tmp").mkdir()
    environment = {**os.environ, "TMPDIR": str(folder / "tmp")}
    process = subprocess.Popen([sys.executable, "-m", "gradlint", "run", "train.py"], cwd=folder, env=environment)
    while not (folder / "alive").exists() and process.poll() is None:
        time.sleep(0.1)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.5)
    code = process.wait(60)
    pid = int((folder / "pid").read_text())
    deadline = time.monotonic() + 30
    while _lives(pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = {path.name for path in folder.iterdir()} & {"finally", "at exit"}
    return code, left | {path.name for path in (folder / "tmp").iterdir()}, _lives(pid)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("name", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_a_script_is_interrupted_if_gradlint_is_told_to_end(tmp_path, name):
    ended = ended_by(tmp_path, INTERRUPTIBLE, getattr(signal, name))
    assert ended == (130, {"finally", "at exit"}, False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_script_is_interrupted_if_gradlint_is_killed(tmp_path):
    assert ended_by(tmp_path, INTERRUPTIBLE, signal.SIGKILL) == (-9, {"finally", "at exit"}, False)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("signals", [["SIGINT"], ["SIGINT", "SIGINT"], ["SIGTERM"]])
def test_a_script_that_ignores_signals_is_ended(tmp_path, signals):
    assert ended_by(tmp_path, STUBBORN, *(getattr(signal, name) for name in signals)) == (130, set(), False)


def test_a_script_without_a_model_is_interrupted_when_its_time_is_up(tmp_path):
    _, report = run(tmp_path, "", "--timeout", "1", head=INTERRUPTIBLE)
    assert report["errors"][0]["message"].startswith("no backward pass within 1 s, no call of a model: raise --timeout")
    assert (tmp_path / "finally").exists() and (tmp_path / "at exit").exists()


@pytest.mark.slow
def test_the_option_is_named_if_a_script_ends_in_its_own_way_when_its_time_is_up(tmp_path):
    body = "try: time.sleep(100)\nexcept KeyboardInterrupt: sys.exit(5)"
    _, report = run(tmp_path, body, "--timeout", "1")
    assert "--timeout" in report["errors"][0]["message"]


def test_a_crash_is_told(tmp_path):
    done, report = run(tmp_path, "", head="import ctypes, torch\nctypes.string_at(0)\n")
    [error] = report["errors"]
    assert done.returncode == 2 and "ended by signal 11 (SIGSEGV) before anything could be judged" in error["message"]


def test_a_crash_is_told_with_the_users_frames():
    own = Path(gradlint.__file__).parent
    dump = f"""Fatal Python error: Segmentation fault

Current thread 0x00007f00 (most recent call first):
  File "nets.py", line 3 in forward
  File "{own / "recorder" / "session.py"}", line 9 in _forward
  File "train.py", line 7 in <module>
  File "<frozen runpy>", line 88 in _run_code
"""
    expected = 'Traceback (most recent call last):\n  File "train.py", line 7, in <module>\n'
    assert traceback_of_crash(dump) == expected + '  File "nets.py", line 3, in forward\n'


@pytest.mark.slow
def test_lines_are_found_after_a_script_has_changed_its_folder(tmp_path):
    _, report = run(tmp_path, "os.chdir('/')\nwhile True: iteration(clear=False)")
    assert report["findings"][0]["path"].endswith("train.py")
    assert Path(tmp_path, report["findings"][0]["path"]).exists()


def test_a_missing_script_is_told(tmp_path):
    command = [sys.executable, "-m", "gradlint", "run", "no.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "no.py does not exist" in done.stderr + done.stdout


def test_a_missing_torch_is_told(tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "torch.py").write_text("raise ImportError('no wheel fits')", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "broken"), str(ROOT)]))
    done, report = run(tmp_path, "print('never reached')")
    [error] = report["errors"]
    assert done.returncode == 2 and "never reached" not in done.stderr and "Traceback" not in done.stderr
    assert "needs torch, which cannot be imported (no wheel fits)" in error["message"]


UNCLEARED = "while True: iteration(clear=False)"  # GL501, an error, on line 17

SETTINGS = {
    "none": ("", (), ["GL501"], 1),
    "ignore": ("ignore = ['GL501']", (), [], 0),
    "select": ("select = ['GL4']", (), [], 0),
    "--select before the file's": ("select = ['GL4']", ("--select", "GL5"), ["GL501"], 1),
    "severity": ("severity = {GL501 = 'warning'}\nfail-on = 'error'", (), ["GL501"], 0),
    "--fail-on before the file's": (
        "severity = {GL501 = 'warning'}\nfail-on = 'error'", ("--fail-on", "warning"), ["GL501"], 1,
    ),
    "per-file-ignores": ("per-file-ignores = {'train.py' = ['GL5']}", (), [], 0),
    "per-file-ignores of another file": ("per-file-ignores = {'other.py' = ['GL5']}", (), ["GL501"], 1),
    "ignore-parameters": ("ignore-parameters = {GL501 = ['*']}", (), [], 0),
    "--isolated": ("ignore = ['GL501']", ("--isolated",), ["GL501"], 1),
    "--exit-zero": ("", ("--exit-zero",), ["GL501"], 0),
    "--frozen": ("ignore = ['GL501']", ("--frozen", "2.*"), ["GL702"], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(SETTINGS))
def test_settings_count_as_for_check(tmp_path, name):
    configuration, options, expected, code = SETTINGS[name]
    (tmp_path / "gradlint.toml").write_text(configuration)
    done, report = run(tmp_path, UNCLEARED, *options)
    assert (codes(report), done.returncode) == (expected, code), done.stderr


NEVER_RUN = """
import parts, excluded.parts

def after_the_epoch(outputs, targets):
    return nn.functional.cross_entropy(outputs.softmax(1), targets)

for _ in range(5): iteration()
"""
PARTS = """
from torch import nn

class Never(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4) for _ in range(3)]

    def forward(self, x):
        return self.layers[0](x)

class Allowed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Linear(4, 4) for _ in range(3)]  # gradlint: ignore[GL104]

    def forward(self, x):
        return self.layers[0](x)
"""


def test_source_rules_judge_all_files_that_ran(tmp_path):
    (tmp_path / "gradlint.toml").write_text("extend-exclude = ['excluded/']")
    (tmp_path / "excluded").mkdir()
    for name in ("parts.py", "excluded/parts.py", "not_imported.py"):
        (tmp_path / name).write_text(PARTS)
    done, report = run(tmp_path, NEVER_RUN)
    found = [(Path(f["path"]).name, f["code"], f["line"]) for f in report["findings"]]
    assert found == [("parts.py", "GL104", 7), ("train.py", "GL601", 23)], done.stderr


@pytest.mark.slow
def test_source_rules_do_not_contradict_the_recording(tmp_path):
    body = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(4, 8), nn.Linear(8, 2)]
            for n, layer in enumerate(self.layers): setattr(self, f"layer{n}", layer)
        def forward(self, x):
            for layer in self.layers: x = layer(x)
            return x
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    while True: iteration()
    """
    _, report = run(tmp_path, body)
    assert (report["findings"], report["errors"]) == ([], [])


def test_a_wrong_configuration_is_told_before_the_script_runs(tmp_path):
    (tmp_path / "gradlint.toml").write_text("ignore = ['GL999']")
    done, report = run(tmp_path, "open('ran', 'w')")
    assert done.returncode == 2
    assert "GL999" in report["errors"][0]["message"]
    assert not (tmp_path / "ran").exists()


def test_comments_silence_what_a_run_finds(tmp_path):
    head = HEAD.replace("loss.backward()", "loss.backward()  # gradlint: ignore[GL501]")
    done, report = run(tmp_path, UNCLEARED, head=head)
    assert (codes(report), done.returncode) == ([], 0)


@pytest.mark.slow
def test_a_comment_with_nothing_to_silence_is_told_once_enough_was_seen(tmp_path):
    head = HEAD.replace("loss.backward()", "loss.backward()  # gradlint: ignore[GL501]")
    assert codes(run(tmp_path, "while True: iteration()", head=head)[1]) == ["GL001"]
    assert codes(run(tmp_path, "iteration()", head=head)[1]) == []


@pytest.mark.slow
def test_a_baseline_is_written_and_counts(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gradlint", "run", "--write-baseline", "known.json", "train.py"],
        cwd=_script(tmp_path, UNCLEARED), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done, report = run(tmp_path, UNCLEARED, "--baseline", "known.json")
    assert (codes(report), done.returncode) == ([], 0)


def test_comments_are_added_for_what_a_run_finds(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "gradlint", "run", "--add-ignores", "train.py"],
        cwd=_script(tmp_path, UNCLEARED), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "loss.backward()  # gradlint: ignore[GL501]" in (tmp_path / "train.py").read_text()


def _script(folder: Path, body: str) -> Path:
    (folder / "train.py").write_text(HEAD + textwrap.dedent(body), encoding="utf-8")
    return folder
