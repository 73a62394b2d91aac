"""Runs tests without a condition, each in a process forked for it; a plugin of pytest.

The tests of a session run once with all conditions, which shows what they feel (`switches`). Each condition that a test
feels, and that no test before it noticed, is deleted for one more run of it.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import switches
from _pytest.runner import runtestprotocol
from switches import Switch

TESTS = Path(__file__).resolve().parents[1]
LIMIT = 30.0
"""Seconds of CPU time within which a test has to end."""


class InForks:
    """The plugin: takes what tests notice out of `alive`."""

    def __init__(self, alive: dict[int, Switch], forget: Callable[[], None]) -> None:
        self.alive = alive
        self.noticed: dict[int, str] = {}
        """Number of a switch → id of the test that noticed its deletion."""
        self._forget = forget

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        """Run a test with all conditions, then without each of those that it feels."""
        if getattr(getattr(item, "function", None), "alone", None) is not None:
            return True  # a table of cases, which need no process of their own
        felt = _in_a_fork(functools.partial(self._run, item, switches.NONE))
        for number in sorted((felt or set()) & self.alive.keys()):
            if _in_a_fork(functools.partial(self._run, item, number)) is None:
                self.noticed[number] = item.nodeid
                del self.alive[number]
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """End a forked process at the first failed subtest."""
        if report.failed:
            os._exit(1)

    def _run(self, item: pytest.Item, number: int) -> set[int] | None:
        """Return what a test felt, None if it failed; a forked process calls this."""
        self._forget()
        _forget_results()
        switches.felt.clear()
        switches.delete(number)
        reports = runtestprotocol(item, log=False, nextitem=None)
        return None if any(report.failed for report in reports) else switches.felt


def run(files: Sequence[str], alive: dict[int, Switch], forget: Callable[[], None]) -> dict[int, str]:
    """Run the tests of files, and return what noticed the deletions that are taken out of `alive`."""
    plugin = InForks(alive, forget)
    with warnings.catch_warnings():
        status = pytest.main(["-qq", "--no-summary", "-n0", "-p", "no:cacheprovider", *files], plugins=[plugin])
    if status is not pytest.ExitCode.OK:
        raise RuntimeError(f"pytest ended with {status!r}")
    return plugin.noticed


def _forget_results() -> None:
    """Clear the caches of what the tests share."""
    for module in list(sys.modules.values()):
        if str(getattr(module, "__file__", None) or "").startswith(str(TESTS)):
            for value in vars(module).values():
                if isinstance(value, functools._lru_cache_wrapper):
                    value.cache_clear()


def _in_a_fork(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked process; None if it did not come to an end."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT)
        try:
            os.write(writer, pickle.dumps(work()))
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return pickle.loads(told) if told else None
