"""Programs that try to end, hold up or spoil the process in which they are checked.

    python tests/kit/ends.py [NAME ...]

checks them in one call, and prints what was reported of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from left_behind import working_in

HEAD = """import atexit, ctypes, faulthandler, gc, multiprocessing, os
import resource, signal, subprocess, sys, threading, time
import torch
from torch import nn
"""
MODEL = """    model = nn.Linear(4, 2)
    return {"model": model, "inputs": (torch.ones(2, 4),), "loss": lambda out: out.detach().sum()}
"""
"""A setup whose loss has no gradient: GL406 shows that it was judged."""

LIMIT = 8
"""Seconds that each program gets."""
MEMORY = "1500MB"


def building(body: str) -> str:
    """A program whose build() runs some lines before it builds the model."""
    return f"{HEAD}\ndef build():\n{textwrap.indent(textwrap.dedent(body).strip(), '    ')}\n{MODEL}"


def used(field: str, function: str) -> str:
    """A program whose loss or step is a function."""
    return f"{HEAD}\n{function}\ndef build():\n    return {{'model': nn.Linear(4, 2), {field}}}\n"


LOSS = "'inputs': (torch.ones(2, 4),), 'loss': f"
STEP = "'step': f"

EXIT = "the code under check called os._exit"
LATE = f"the code under check did not end within {LIMIT} s (--timeout)"
ENDED = "the process of the code under check"
FAILS: dict[str, tuple[str, str]] = {
    "os._exit(0)": (building("os._exit(0)"), f"{EXIT}(0)"),
    "os._exit(3)": (building("os._exit(3)"), f"{EXIT}(3)"),
    "os._exit in the module": (f"{HEAD}os._exit(0)\n", f"{EXIT}(0)"),
    "os._exit in the loss": (used(LOSS, "def f(out): os._exit(0)"), f"{EXIT}(0)"),
    "os._exit in the step": (used(STEP, "def f(): os._exit(0)"), f"{EXIT}(0)"),
    "os._exit in a thread": (building("threading.Thread(target=os._exit, args=(0,)).start(); time.sleep(5)"), EXIT),
    "os._exit in a message": (
        f"{HEAD}class E(Exception):\n    def __str__(self): os._exit(0)\ndef build(): raise E\n", EXIT,
    ),
    "posix._exit": (building("import posix; posix._exit(0)"), f"{ENDED} ended with exit code 0"),
    "_exit of C": (building("ctypes.CDLL(None)._exit(0)"), f"{ENDED} ended with exit code 0"),
    "exit of C": (building("ctypes.CDLL(None).exit(0)"), f"{ENDED} ended with exit code 0"),
    "another program": (building("os.execv('/bin/echo', ['echo', 'noise'])"), f"{ENDED} ended with exit code 0"),
    "a crash": (building("ctypes.string_at(0)"), f"{ENDED} was ended by signal 11 (SIGSEGV)"),
    "abort": (building("os.abort()"), f"{ENDED} was ended by signal 6 (SIGABRT)"),
    "SIGKILL": (building("os.kill(os.getpid(), 9)"), f"{ENDED} was ended by signal 9 (SIGKILL), perhaps because"),
    "SIGTERM": (building("os.kill(os.getpid(), 15); time.sleep(5)"), f"{ENDED} was ended by signal 15 (SIGTERM)"),
    "an alarm": (building("signal.alarm(1); time.sleep(5)"), f"{ENDED} was ended by signal 14 (SIGALRM)"),
    "a stopped process": (building("os.kill(os.getpid(), signal.SIGSTOP)"), LATE),
    "the end of the supervisor": (
        building("os.kill(os.getppid(), 9); time.sleep(3)"),
        f"{ENDED} was ended by signal 9",
    ),
    "SIGINT": (building("os.kill(os.getpid(), 2); time.sleep(5)"), "the code under check raised KeyboardInterrupt"),
    "KeyboardInterrupt": (building("raise KeyboardInterrupt"), "the code under check raised KeyboardInterrupt"),
    "sys.exit": (building("sys.exit(0)"), "build() called sys.exit(0)"),
    "sys.exit in the module": (f"{HEAD}sys.exit(0)\n", "importing "),
    "sys.exit in the loss": (used(LOSS, "def f(out): sys.exit(0)"), "the loss called sys.exit(0)"),
    "GeneratorExit": (building("raise GeneratorExit"), "build() raised GeneratorExit"),
    "an exception of its own": (
        used(LOSS, "class E(BaseException): pass\ndef f(out): raise E('x')"), "the loss raised E: x",
    ),
    "only a fork goes on": (building("if os.fork(): os._exit(0)"), f"{EXIT}(0)"),
    "an endless loop": (building("while True: pass"), f"{LATE}: it was at "),
    "an endless loop in the module": (f"{HEAD}while True: pass\n", f"{LATE}: it was at "),
    "an endless loop in the loss": (used(LOSS, "def f(out):\n    while True: pass"), f"{LATE}: it was at "),
    "an endless loop in the step": (used(STEP, "def f():\n    while True: time.sleep(0.1)"), f"{LATE}: it was at "),
    "an endless loop that catches": (
        building("while True:\n    try:\n        while True: time.sleep(.1)\n    except BaseException: pass"), LATE,
    ),
    "an endless regular expression": (building("import re; re.match('(a+)+$', 'a' * 64 + 'b')"), f"{LATE}: it was at"),
    "a sleep of C": (building("ctypes.CDLL(None).sleep(300)"), f"{LATE}: it was at "),
    "a deadlock": (building("lock = threading.Lock(); lock.acquire(); lock.acquire()"), f"{LATE}: it was at "),
    "an endless loop with blocked signals": (
        building("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass"), f"{LATE}: it was at ",
    ),
    "an endless loop without a timer": (
        building("faulthandler.cancel_dump_traceback_later()\nfaulthandler.disable()\nwhile True: time.sleep(1)"),
        f"{LATE}: it was at ",
    ),
    "closed descriptors": (building("os.closerange(3, 256)"), "the code under check closed file descriptors that"),
    "all descriptors closed": (building("os.closerange(0, 256)"), "the code under check closed file descriptors that"),
    "recursion": (building("def f(): return f()\nf()"), "build() raised RecursionError"),
    "recursion without a limit": (
        building("sys.setrecursionlimit(10**9)\nf = lambda x: [*map(f, [x])]\nf(1)"), f"{ENDED} was ended by signal 11",
    ),
    "MemoryError": (building("raise MemoryError"), "build() raised MemoryError"),
    "too large a tensor": (building("torch.empty(10**15)"), "build() raised RuntimeError"),
    "memory hunger": (
        building("kept = []\nwhile True: kept.append(bytearray(10**7))"),
        f"the code under check took more than {MEMORY} of memory (--max-memory): it was at ",
    ),
    "memory hunger of a fork": (
        building("if not os.fork():\n    kept = [bytearray(10**7) for _ in range(200)]\ntime.sleep(60)"),
        f"the code under check took more than {MEMORY} of memory (--max-memory)",
    ),
}  # fmt: skip
"""Name → (a program that cannot be judged, how its error begins)."""

GOES_ON: dict[str, str] = {
    "forks": building("os.fork()"),
    "forks in the module": HEAD + "os.fork()\n" + building("pass").removeprefix(HEAD),
    "forks in the loss": used(LOSS, "def f(out):\n    os.fork()\n    return out.detach().sum()"),
    "forks four times": building("for _ in range(4): os.fork()"),
    "forks and waits": building("os.waitpid(os.fork() or os._exit(0), 0)"),
    "forks and raises there": building("if not os.fork(): raise RuntimeError"),
    "forks and exits there": building("if not os.fork(): sys.exit(3)"),
    "forks and stays there": building("if not os.fork(): time.sleep(300)"),
    "starts a daemon": building(
        "if not os.fork():\n    os.setsid()\n    os.fork() or time.sleep(300)\n    os._exit(0)"
    ),
    "starts a pool": building(
        "with multiprocessing.get_context('fork').Pool(2) as pool: assert pool.map(abs, [-1, 2]) == [1, 2]"
    ),
    "starts a process": building(
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(300,)).start()"
    ),
    "starts a daemonic process": building(
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(300,), daemon=True).start()"
    ),
    "starts a program": building("subprocess.Popen(['sleep', '300'])"),
    "starts a program that prints": building("subprocess.run(['echo', 'noise'])"),
    "prints from a thread": building(
        "def talk():\n    while True: print('noise'); time.sleep(0.001)\n"
        "threading.Thread(target=talk, daemon=True).start()"
    ),
    "writes from a thread": building(
        "def talk():\n    while True: os.write(1, b'noise'); time.sleep(0.001)\n"
        "threading.Thread(target=talk, daemon=True).start()"
    ),
    "waits in a thread": building("threading.Thread(target=time.sleep, args=(300,)).start()"),
    "prints at exit": building("atexit.register(print, 'noise')"),
    "exits at exit": building("atexit.register(os._exit, 0)"),
    "hangs at exit": building("atexit.register(time.sleep, 300)"),
    "raises at exit": building("atexit.register(lambda: 1 / 0)"),
    "crashes at exit": building("atexit.register(ctypes.string_at, 0)"),
    "sends SIGTERM to the supervisor": building("os.kill(os.getppid(), 15)"),
    "sends SIGINT to the supervisor": building("os.kill(os.getppid(), 2)"),
    "closes stdout": building("os.close(1)"),
    "closes the standard streams": building("for number in range(3): os.close(number)"),
    "closes sys.stdout": building("sys.stdout.close()"),
    "has no streams": building("sys.stdout = sys.stderr = None"),
    "has broken streams": building(
        "class Stream:\n    def write(self, *_): raise RuntimeError\n    def flush(self): raise RuntimeError\n"
        "sys.stdout = sys.stderr = sys.__stdout__ = Stream()"
    ),
    "replaces sys.exit": building("sys.exit = lambda *_: None"),
    "replaces os._exit": building("os._exit = lambda *_: None"),
    "replaces os.fork": building("os.fork = os.waitpid = None"),
    "replaces hooks": building("sys.excepthook = threading.excepthook = sys.unraisablehook = None"),
    "replaces pickle and json": building("import json, pickle; pickle.dumps = pickle.loads = json.dumps = None"),
    "ignores SIGINT": building("signal.signal(signal.SIGINT, signal.SIG_IGN)"),
    "traces": building("sys.settrace(lambda *_: None)"),
    "switches the collector off": building("gc.disable(); gc.set_threshold(1)"),
    "removes its folder": building("os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')"),
    "clears the environment": building("os.environ.clear()"),
}  # fmt: skip
"""Name → a program that is judged in spite of what it does."""


def write(folder: Path, names: Iterable[str]) -> list[str]:
    """Write programs into a folder; their targets."""
    targets = []
    for number, name in enumerate(names):
        text = FAILS[name][0] if name in FAILS else GOES_ON[name]
        (folder / f"program{number}.py").write_text(text, encoding="utf-8")
        targets.append(f"program{number}.py:build")
    return targets


def check(folder: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], Any]:
    """Check targets; the process and the report."""
    command = [sys.executable, "-m", "gradlint", "check", *arguments, "--output-format", "json"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    return done, json.loads(done.stdout)


def main() -> None:
    """Check programs and print what was reported."""
    names = sys.argv[1:] or [*FAILS, *GOES_ON]
    with tempfile.TemporaryDirectory() as folder:
        targets = write(Path(folder), names)
        done, report = check(Path(folder), *targets, "--timeout", str(LIMIT), "--max-memory", MEMORY)
        print(f"exit code {done.returncode}, left behind: {list(working_in(Path(folder)).values())}")
    errors = {error["target"]: error["message"] for error in report["errors"]}
    judged = {finding["target"] for finding in report["findings"] if finding["code"] == "GL406"}
    for name, target in zip(names, targets, strict=True):
        print(f"{name:40}{errors.get(target, 'judged' if target in judged else 'nothing')}")


if __name__ == "__main__":
    main()
