"""``gradlint run``: hostile scripts, and everything that ends gradlint; no process and no temporary folder remains."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import processes
import pytest
from left_behind import still_alive_in

pytestmark = [
    pytest.mark.usefixtures("processes"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc"),
]

HEAD = """
import ctypes, multiprocessing, os, signal, subprocess, sys, threading, time
SLEEP = [sys.executable, "-S", "-c", "import time; time.sleep(90)"]
parent = os.getppid()
def is_ready(): open("ready", "w").close()
def fork(work):
    if os.fork() == 0:
        try: work()
        finally: os._exit(0)
def sleep(seconds=90.0): time.sleep(seconds)
def train():
    is_ready()
    while True: time.sleep(0.05)
def deaf(*names):
    for name in names or ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGALRM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
"""

SCRIPTS = {
    "trains": "train()",
    "ignores signals": "deaf(); train()",
    "has handlers of its own": """
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP): signal.signal(number, lambda *_: None)
        train()
        """,
    "blocks signals": "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65)); train()",
    "catches everything": """
        is_ready()
        while True:
            try: time.sleep(0.05)
            except BaseException: pass
        """,
    "an endless finally": """
        try: train()
        finally:
            deaf()
            while True: time.sleep(0.05)
        """,
    "an endless atexit": "import atexit; atexit.register(lambda: (deaf(), sleep())); train()",
    "an endless thread": "threading.Thread(target=sleep).start(); train()",
    "an endless finalizer": """
        class Stays:
            def __del__(self): deaf(); sleep()
        stays = Stays()
        train()
        """,
    "in C, with the lock of the interpreter": "is_ready(); ctypes.PyDLL(None).sleep(90)",
    "in C, deaf, with the lock of the interpreter": "deaf(); is_ready(); ctypes.PyDLL(None).sleep(90)",
    "in C, deaf, without the lock": "deaf(); is_ready(); ctypes.CDLL(None).sleep(90)",
    "in C, computing": "is_ready(); sum(range(10**12))",
    "in a regular expression": "import re; is_ready(); re.match(r'(a|aa)+$', 'a' * 60 + 'b')",
    "stops itself": "is_ready(); os.kill(os.getpid(), signal.SIGSTOP); sleep()",
    "a subprocess": "subprocess.Popen(SLEEP); train()",
    "waits for a subprocess": "is_ready(); subprocess.run(SLEEP)",
    "a shell": "subprocess.Popen('sleep 90 & sleep 91 & wait', shell=True); train()",
    "a subprocess in a session of its own": "subprocess.Popen(SLEEP, start_new_session=True); train()",
    "a subprocess in a group of its own": "subprocess.Popen(SLEEP, preexec_fn=os.setpgrp); train()",
    "a deaf subprocess": "subprocess.Popen(SLEEP, preexec_fn=lambda: (os.setsid(), deaf())); train()",
    "a stopped subprocess": "os.kill(subprocess.Popen(SLEEP).pid, signal.SIGSTOP); train()",
    "a fork": "fork(sleep); train()",
    "a daemon": "fork(lambda: (os.setsid(), deaf(), fork(sleep))); train()",
    "a daemon of a daemon": "fork(lambda: (os.setsid(), fork(lambda: (os.setsid(), fork(sleep))), sleep())); train()",
    "a daemon that begins again": """
        def guard():
            os.setsid(); deaf()
            while True:
                pid = os.fork()
                if pid == 0: sleep()
                os.waitpid(pid, 0)
        fork(guard); train()
        """,
    "a chain of forks": """
        def link():
            os.setsid()
            limit = time.monotonic() + 60
            while time.monotonic() < limit:
                if os.fork(): os._exit(0)
                time.sleep(0.002)
        fork(link); train()
        """,
    "many forks": "[fork(lambda: (os.setsid(), fork(sleep), sleep())) for _ in range(40)]; train()",
    "a daemon that adopts": """
        def adopts():
            os.setsid(); ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
            fork(lambda: fork(sleep)); sleep()
        fork(adopts); train()
        """,
    "a pool": "multiprocessing.get_context('fork').Pool(2).map_async(sleep, [90, 90]); train()",
    "a pool of new processes": """
        if __name__ == "__main__":
            pool = multiprocessing.get_context("spawn").Pool(1)
            pool.map_async(time.sleep, [90]); time.sleep(1); train()
        """,
    "a manager": "manager = multiprocessing.Manager(); shared = manager.list(); train()",
    "futures": """
        from concurrent.futures import ProcessPoolExecutor
        pool = ProcessPoolExecutor(2, multiprocessing.get_context("fork"))
        futures = [pool.submit(sleep) for _ in range(4)]; train()
        """,
    "workers of a loader": """
        from torch.utils.data import DataLoader
        loader = iter(DataLoader(range(100), num_workers=2, persistent_workers=True)); next(loader); train()
        """,
    "closes all files": "os.closerange(3, 4096); train()",
    "closes the streams": "os.closerange(0, 3); train()",
    "kills its parent": "is_ready(); parent > 1 and os.kill(parent, signal.SIGKILL); train()",
    "interrupts its parent": "is_ready(); [os.kill(parent, n) for n in (1, 2, 3, 15) if parent > 1]; train()",
    "becomes another program": "is_ready(); os.execv(SLEEP[0], SLEEP)",
    "goes on in a child": "fork(lambda: (os.setsid(), deaf(), train())); time.sleep(0.5)",
    "clears its working folder": "os.remove('train.py'); train()",
}

Ending = Callable[[int], None]


def sends(*names: str, group: bool = False) -> Ending:
    """Return what sends signals to gradlint, or to its whole group."""

    def send(pid: int) -> None:
        for name in names:
            try:
                (os.killpg if group else os.kill)(pid, getattr(signal, name))
            except ProcessLookupError:
                return
            time.sleep(0.3)

    return send


def kills_the_supervisor(pid: int) -> None:
    """Kill the process that stands between gradlint and the script."""
    os.kill(_supervisor_of(pid), signal.SIGKILL)


def kills_both(pid: int) -> None:
    """Kill gradlint, and the process between it and the script."""
    supervisor = _supervisor_of(pid)
    os.kill(pid, signal.SIGSTOP)
    os.kill(supervisor, signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)


def _supervisor_of(pid: int) -> int:
    [supervisor] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(supervisor)


ENDINGS: dict[str, Ending] = {
    "SIGTERM": sends("SIGTERM"),
    "SIGTERM twice": sends("SIGTERM", "SIGTERM"),
    "SIGHUP": sends("SIGHUP"),
    "SIGINT": sends("SIGINT"),
    "SIGINT twice": sends("SIGINT", "SIGINT"),
    "SIGINT, then SIGKILL": sends("SIGINT", "SIGKILL"),
    "SIGQUIT": sends("SIGQUIT"),
    "SIGALRM": sends("SIGALRM"),
    "SIGXCPU": sends("SIGXCPU"),
    "SIGKILL": sends("SIGKILL"),
    "SIGKILL to the group": sends("SIGKILL", group=True),
    "SIGTERM to the group": sends("SIGTERM", group=True),
    "SIGINT to the group": sends("SIGINT", group=True),
    "the supervisor is killed": kills_the_supervisor,
    "both are killed": kills_both,
}


def remains(folder: Path, script: str, ending: Ending, *options: str) -> tuple[int, list[str], list[str]]:
    """Run a script and end gradlint: its exit code, the processes that remain, and the temporary files."""
    (folder / "train.py").write_text(HEAD + textwrap.dedent(script), encoding="utf-8")

    def end(pid: int) -> None:
        limit = time.monotonic() + 60
        while not (folder / "ready").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        time.sleep(0.1)
        ending(pid)

    with tempfile.TemporaryDirectory() as temporary:  # a short name: sockets lie there
        done = processes.gradlint(["run", *options, "train.py"], folder, {"TMPDIR": temporary}, end)
        assert (folder / "ready").exists(), done.stderr
        alive = still_alive_in(folder)
        return done.returncode, alive, [path.name for path in Path(temporary).glob("gradlint*")]


CORE = [
    ("trains", "SIGTERM"),
    ("in C, with the lock of the interpreter", "SIGINT twice"),
    ("a daemon", "SIGINT twice"),
]
"""Scripts and endings that are always tried; the others are slow."""


NEW = [
    (name, ending)
    for name in ("trains", "a daemon")
    for ending in ENDINGS
    if (name, ending) != ("a daemon", "both are killed")
]
"""Scripts and endings that are tried in new processes. If both are killed, nobody is left to adopt a daemon."""


def _in_forks() -> list[object]:
    every = [(name, ending) for name in SCRIPTS for ending in ("SIGTERM", "SIGKILL")]
    rest = [case for case in every if case not in CORE]
    return [*CORE, *(pytest.param(*case, marks=pytest.mark.slow) for case in rest)]


@pytest.mark.parametrize("processes", ["fork"], indirect=True)
@pytest.mark.parametrize(("name", "ending"), _in_forks())
def test_nothing_remains(tmp_path: Path, name: str, ending: str) -> None:
    _, alive, left = remains(tmp_path, SCRIPTS[name], ENDINGS[ending])
    assert (alive, left) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["new"], indirect=True)
@pytest.mark.parametrize(("name", "ending"), NEW)
def test_nothing_remains_of_new_processes(tmp_path: Path, name: str, ending: str) -> None:
    _, alive, left = remains(tmp_path, SCRIPTS[name], ENDINGS[ending])
    assert (alive, left) == ([], [])


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["new"], indirect=True)
@pytest.mark.parametrize("name", [name for name in SCRIPTS if name.startswith(("in ", "ignores", "blocks", "catches"))])
def test_nothing_remains_once_the_time_is_up(tmp_path: Path, name: str) -> None:
    assert remains(tmp_path, SCRIPTS[name], lambda pid: None, "--timeout", "1") == (2, [], [])
