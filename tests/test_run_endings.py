"""``gradlint run``: when a script is ended, how it ends, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest
from script import HEAD, codes, run

import gradlint
from gradlint.load.crash import traceback_of_crash
from gradlint.recorder.facts.training_log import TrainingLog
from gradlint.recorder.patience import Patience

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
