"""The processes that judge files end with the one that started them, whatever ends that."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from left_behind import still_alive_in
from table import ROOT

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")

COMMAND = """
import multiprocessing, sys
from gradlint.cli import console_script
from gradlint.engine import pool, source_pass
source_pass.WORTH_A_PROCESS = source_pass.CHUNK = 1
source_pass._processors = lambda: 2
{patch}
if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv.pop(1))
    console_script()
"""
NO_DEATH_SIGNAL = "pool.process_tree.end_with_parent = lambda: None"

NEVER_DONE = '''
"""A rule that never comes to an end."""
import os, time
from gradlint import Rule, Severity

class NeverDone(Rule):
    """Wait.

    ## What it does
    Nothing.

    ## Why it is bad
    It is not.

    ## Example
    ```python
    import torch
    ```

    ## Use instead
    ```python
    import torch
    ```

    ## Known limits
    None.

    ## References
    None.
    """

    code = "XX901"
    name = "never-done"
    severity = Severity.WARNING
    source_prefilter = ("torch",)
    MESSAGE = "It waits."

    def check_source(self, context):
        open(f"judges {os.getpid()}", "w").close()
        time.sleep(90)
        yield from ()
'''


@contextlib.contextmanager
def begun(
    folder: Path, method: str = "fork", patch: str = "", rule: str = NEVER_DONE
) -> Iterator[subprocess.Popen[bytes]]:
    """Begin to check files in two processes; yield gradlint's process once both work or it has ended."""
    (folder / "rules").mkdir()
    (folder / "rules" / "never_done.py").write_text(rule, encoding="utf-8")
    (folder / "src").mkdir()
    for number in range(4):
        (folder / "src" / f"m{number}.py").write_text("import torch\n", encoding="utf-8")
    (folder / "command.py").write_text(COMMAND.format(patch=patch), encoding="utf-8")
    command = [sys.executable, "command.py", method, "check", "--no-cache", "--rules-dir", "rules", "src"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    limit = time.monotonic() + 60
    while len(list(folder.glob("judges *"))) < 2 and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.02)
    try:
        yield process
        process.wait(60)
    finally:
        process.kill()
        process.wait()


def test_none_remains_of_those_that_worked(tmp_path: Path) -> None:
    with begun(tmp_path) as process:
        process.kill()
    assert len(list(tmp_path.glob("judges *"))) == 2 and still_alive_in(tmp_path) == []


SIGNALS = [
    "SIGTERM",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("SIGKILL", "SIGINT", "SIGHUP", "SIGQUIT")),
]


@pytest.mark.parametrize("send", [os.kill, pytest.param(os.killpg, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SIGNALS)
def test_none_remains_after_a_signal(tmp_path: Path, name: str, send: Callable[[int, int], None]) -> None:
    with begun(tmp_path) as process:
        send(process.pid, getattr(signal, name))
    assert still_alive_in(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("patch", ["", NO_DEATH_SIGNAL], ids=["Linux", "macOS"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_none_remains_however_they_begin(tmp_path: Path, method: str, patch: str) -> None:
    with begun(tmp_path, method, patch) as process:
        process.kill()
    assert still_alive_in(tmp_path) == []


def test_none_remains_if_one_of_them_is_killed(tmp_path: Path) -> None:
    with begun(tmp_path) as process:
        os.kill(min(int(path.name.split()[1]) for path in tmp_path.glob("judges *")), signal.SIGKILL)
        time.sleep(0.5)
        process.terminate()
    assert still_alive_in(tmp_path) == []


FAILS_IN_A_WORKER = """
import multiprocessing
if multiprocessing.parent_process() is not None:
    {fault}
"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["raise RuntimeError('no')", "raise SystemExit(3)", "import os; os._exit(3)"])
def test_none_remains_if_a_rule_cannot_be_loaded_there(tmp_path: Path, fault: str) -> None:
    with begun(tmp_path, "spawn", rule=FAILS_IN_A_WORKER.format(fault=fault) + NEVER_DONE) as process:
        pass
    assert process.returncode == 2
    assert still_alive_in(tmp_path) == []
