"""User code that ends the process in which it is checked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

HEAD = "import atexit, ctypes, os, signal, threading, time\nimport torch\nfrom torch import nn\n"
MODEL = """    model = nn.Linear(4, 2)
    return {"model": model, "inputs": (torch.ones(2, 4),), "loss": lambda out: out.detach().sum()}
"""
ENDS = {
    "os._exit": ("    os._exit(0)\n", "the code under check called os._exit(0)"),
    "a crash": ("    ctypes.string_at(0)\n", "the process of the code under check was ended by signal 11 (SIGSEGV)"),
    "a kill": (
        "    os.kill(os.getpid(), signal.SIGKILL)\n",
        "the process of the code under check was ended by signal 9 (SIGKILL)",
    ),
}
GOES_ON = {
    "exits at exit": "    atexit.register(lambda: os._exit(0))\n",
    "prints from a thread": (
        "    def talk():\n        while True: print('noise'); time.sleep(0.001)\n"
        "    threading.Thread(target=talk, daemon=True).start()\n"
    ),
    "forks": "    os.fork()\n",
    "forks and waits": "    os.waitpid(os.fork() or os._exit(0), 0)\n",
}


def check(folder: Path, *targets: str):
    """Check targets; the process and the report."""
    command = [sys.executable, "-m", "gradlint", "check", *targets, "--output-format", "json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    return done, json.loads(done.stdout)


def mostly_slow(names):
    """Mark all cases but the first one as slow: each starts processes that import torch."""
    names = list(names)
    return [names[0], *(pytest.param(name, marks=pytest.mark.slow) for name in names[1:])]


@pytest.mark.parametrize("name", mostly_slow(ENDS))
def test_code_that_ends_the_process_is_an_error_of_its_target_alone(tmp_path, name):
    body, message = ENDS[name]
    (tmp_path / "ends.py").write_text(f"{HEAD}def build():\n{body}")
    (tmp_path / "cut.py").write_text(f"{HEAD}def build():\n{MODEL}")
    done, report = check(tmp_path, "ends.py:build", "cut.py:build")
    assert (done.returncode, [f["code"] for f in report["findings"]]) == (2, ["GL406"])
    assert [(e["target"], e["message"]) for e in report["errors"]] == [("ends.py:build", message)]


@pytest.mark.slow
@pytest.mark.parametrize("name", GOES_ON)
def test_code_that_ends_other_processes_changes_nothing(tmp_path, name):
    (tmp_path / "cut.py").write_text(f"{HEAD}def build():\n{GOES_ON[name]}{MODEL}")
    done, report = check(tmp_path, "cut.py:build")
    assert (done.returncode, report["errors"], [f["code"] for f in report["findings"]]) == (1, [], ["GL406"])


@pytest.mark.slow
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 130), ("SIGKILL", -9)])
def test_a_signal_to_the_waiting_process_ends_the_other(tmp_path, name, code):
    body = "    open('pid', 'w').write(str(os.getpid()))\n    while True: time.sleep(0.1)\n"
    (tmp_path / "endless.py").write_text(f"{HEAD}def build():\n{body}")
    command = [sys.executable, "-m", "gradlint", "check", "endless.py:build"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.1)
    process.send_signal(getattr(signal, name))
    assert process.wait(60) == code
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except OSError:
            return
        time.sleep(0.1)
    pytest.fail("the code still runs")


def test_code_that_does_not_end_is_an_error_that_names_the_option(tmp_path):
    (tmp_path / "endless.py").write_text(f"{HEAD}def build():\n    while True: pass\n")
    done, report = check(tmp_path, "endless.py:build", "--timeout", "1")
    (error,) = report["errors"]
    assert (done.returncode, error["target"]) == (2, "endless.py:build")
    assert error["message"] == "the code under check did not end within 1 s (--timeout)"


@pytest.mark.slow
def test_the_targets_after_one_that_does_not_end_are_checked(tmp_path):
    """A regular expression holds the interpreter, so no thread of Python could end it."""
    endless = "import re\ndef build():\n    re.match('(a+)+$', 'a' * 64 + 'b')\n"
    (tmp_path / "endless.py").write_text(endless)
    (tmp_path / "cut.py").write_text(f"{HEAD}def build():\n{MODEL}")
    done, report = check(tmp_path, "endless.py:build", "cut.py:build", "--timeout", "60")
    assert (done.returncode, [f["code"] for f in report["findings"]]) == (2, ["GL406"])
    assert [e["message"] for e in report["errors"]] == ["the code under check did not end within 60 s (--timeout)"]
