"""Runs gradlint's command in a process of its own: a new one, or the fork of one that has imported torch already.

Most of the time of `gradlint run` is the import of torch, in the second of its processes. A fork begins with the
arguments, environment, folder and streams of a new process; the script's process is a fork of that one.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Forks:
    """Whether commands run in forks; the fixture `processes` says so."""

    are_used = False


# -- in the process of the tests --------------------------------------------------------------------------------------


def gradlint(
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str] | None = None,
    meanwhile: Callable[[int], None] = lambda pid: None,
) -> subprocess.CompletedProcess[str]:
    """Run the command with arguments in a folder, for two minutes at most.

    Args:
        arguments: those of the command line.
        cwd: the working directory.
        environment: what the environment has besides that of the tests.
        meanwhile: called with the process id once it runs.
    """
    environment = {**os.environ, **(environment or {})}
    if not Forks.are_used:
        process = subprocess.Popen(
            [sys.executable, "-m", "gradlint", *arguments], cwd=cwd, env=environment, text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        meanwhile(process.pid)
        outputs = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, *outputs)
    with tempfile.TemporaryDirectory() as folder:
        streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
        request = {"argv": ["gradlint", *arguments], "cwd": str(cwd), "environment": environment, "streams": streams}
        server = _server()
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        pid = int(server.stdout.readline())
        killing = threading.Timer(120, os.kill, (pid, signal.SIGKILL))
        killing.start()
        meanwhile(pid)
        code = int(server.stdout.readline())
        killing.cancel()
        return subprocess.CompletedProcess(arguments, code, *(Path(path).read_text("utf-8") for path in streams))


@functools.cache
def _server() -> subprocess.Popen[str]:
    """Start the process that is forked; it ends with this one."""
    code = f"import runpy; runpy.run_path({__file__!r})['serve']()"
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(server.communicate)
    return server


# -- in the process that is forked ------------------------------------------------------------------------------------


def serve() -> None:
    """Import what gradlint's processes import; then run a command for each line of stdin."""
    from gradlint.cli import console_script
    from gradlint.rulekit import registry
    from gradlint.runner import child, process  # noqa: F401

    registry.load(packs=False)
    path = sys.path[1:]
    process.subprocess = types.SimpleNamespace(**{**vars(subprocess), "Popen": functools.partial(_Script, path)})
    while line := sys.stdin.readline():
        request = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.setsid()
            os.chdir(request["cwd"])
            sys.argv = request["argv"]
            streams = [os.open(stream, os.O_WRONLY | os.O_CREAT) for stream in request["streams"]]
            _become(console_script, os.open(os.devnull, os.O_RDONLY), *streams, request["environment"], path)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(
    main: Callable[[], object], stdin: int, stdout: int, stderr: int, environment: Mapping[str, str], path: list[str]
) -> NoReturn:
    """Make this fork look like a new process of Python, call its main function, and end it."""
    for number, stream in enumerate((stdin, stdout, stderr)):
        os.dup2(stream, number)
    os.closerange(3, 4096)  # a pipe whose other end stays open here would never reach its end
    sys.stdin = sys.__stdin__ = open(0, closefd=False)
    sys.stdout = sys.__stdout__ = open(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = open(2, "w", buffering=1, closefd=False)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # it was that of the tests
    sys.path[:] = [os.getcwd(), *path]
    code: Any = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else code is not None)


class _Script:
    """The script's process; a `subprocess.Popen` as far as its parent uses one."""

    def __init__(
        self,
        path: list[str],
        command: list[str],
        stdin: int,
        stdout: int,
        stderr: int,
        env: Mapping[str, str],
        **_: Any,
    ) -> None:
        assert command == [sys.executable, "-m", "gradlint.runner"]
        self.polling = threading.Lock()
        self.pid = os.fork()
        if self.pid == 0:
            from gradlint.runner.__main__ import main

            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # a new process has no handlers
                signal.signal(number, signal.SIG_DFL)
            _become(main, stdin, stdout, stderr, env, path)
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        with self.polling:
            if self.code is None and (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
                self.code = os.waitstatus_to_exitcode(ended[1])
        return self.code

    def wait(self, timeout: float = float("inf")) -> int:
        """Wait for its end and return the exit code."""
        limit = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > limit:
                raise subprocess.TimeoutExpired("gradlint.runner", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)
