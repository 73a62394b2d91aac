"""The messages between the two processes of ``gradlint run``."""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path

from gradlint.findings import Report
from gradlint.rulekit.fence import Fence
from gradlint.system import writing

INTERRUPT_GRACE = 5.0
"""Seconds that an interrupted script gets to end by itself."""


@dataclass(frozen=True)
class Job:
    """The script to run, and the options of its recording."""

    script: str
    """A file, or the dotted name of a module or package."""
    module: bool
    """True if `script` is a module's name."""
    arguments: tuple[str, ...]
    """The script's own arguments, ``sys.argv[1:]``."""
    misplaced: str = ""
    """The first of `arguments` that is an option of gradlint; empty if there is none."""
    launcher: str = ""
    """The launcher that was to start the script in several processes, in words; empty without one."""
    report: str = ""
    """The file to leave the report in."""
    rules: tuple[str, ...] = ()
    """Codes of the rules to judge by."""
    rules_dirs: tuple[str, ...] = ()
    fence: Fence = Fence()  # noqa: RUF009 - it is frozen
    """Keeps out rule packs in the project."""
    steps: int = 3
    max_batches: int | None = None
    """Number of calls or backward passes without progress after which to stop; None for the default."""
    seconds: float = 300.0
    """Seconds after which the recording is judged at the next opportunity."""
    exclude: tuple[str, ...] = ()
    """Globs of the files that the source rules do not judge."""
    root: str = ""
    """The folder that these globs are relative to."""
    strict: bool = False
    overview: bool = False
    """True if the report includes the modules of the script's models."""
    flow_map: bool = False
    """True if the report includes the map of the script's models."""
    draft: bool = False
    """True if the report includes a build() like the script's training."""
    trains: tuple[str, ...] = ()
    """Globs of the parameters that are declared to train."""
    frozen: tuple[str, ...] = ()
    """Globs of the parameters that are declared not to move."""

    @property
    def crash(self) -> str:
        """The file that faulthandler writes to if Python crashes."""
        return _crash(self.report)

    @property
    def target(self) -> str:
        """Its name in the report."""
        return f"-m {self.script}" if self.module else self.script

    def hint(self) -> str:
        """Return what to add to the message if the script does not take its arguments."""
        if not self.misplaced:
            return ""
        return f": {self.misplaced} went to the script; to give it to gradlint, write it before {self.target}"


def leave(report: Report, path: str) -> None:
    """Write a report for the other process, whole or not at all."""
    try:
        writing.replace(path, pickle.dumps(report), durable=False)
    except OSError as error:
        if os.path.isdir(os.path.dirname(path)):  # else the other process has gone, and its folder with it
            sys.stderr.write(f"gradlint: the report cannot be kept: {error.strerror or error}\n")


def collect(path: str) -> Report | None:
    """Return the report that was left; None if there is none."""
    try:
        report = pickle.loads(Path(path).read_bytes())
    except (OSError, EOFError, pickle.UnpicklingError):
        return None
    return report if isinstance(report, Report) else None


def discard(report: str) -> None:
    """Delete a report and what lies beside it of its job, and the folder if it is empty then."""
    with contextlib.suppress(OSError):
        for path in (Path(report), Path(_crash(report))):
            path.unlink(missing_ok=True)
        writing.sweep(Path(report).parent, older_than=0)
        os.rmdir(os.path.dirname(report))


def _crash(report: str) -> str:
    return f"{report}.crash"
