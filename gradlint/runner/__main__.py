"""Entry point of the script's process: ``python -m gradlint.runner``, with the job on its stdin."""

from __future__ import annotations

import os
import pickle
import signal
import sys

from gradlint.errors import torch_missing
from gradlint.findings import Failure, Report
from gradlint.runner.job import Job, leave
from gradlint.system.gc_pause import frozen_imports
from gradlint.system.process_tree import mark_own_process


def main() -> None:
    """Get ready, run the job, and exit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the script runs, there is nothing to interrupt
    if not getattr(sys.flags, "safe_path", False):  # from Python 3.11
        del sys.path[0]  # the working directory, which ``python script.py`` does not look into
    mark_own_process()
    given = _stdin_taken()
    missing: ImportError | None = None
    with frozen_imports():
        try:
            import torch  # noqa: F401
        except ImportError as error:
            missing = error
        else:
            from gradlint.runner import child
    stream = os.fdopen(given, "rb", closefd=False)
    try:
        job: Job = pickle.load(stream)
    except (EOFError, pickle.UnpicklingError):  # or the other process ended while it wrote
        return  # there is nothing to run after all
    if missing is not None:
        leave(Report(errors=[Failure(job.target, str(torch_missing(missing)))]), job.report)
        sys.exit(2)
    child.main(job, given)


def _stdin_taken() -> int:
    """Return a copy of stdin, and leave nothing to read for the script."""
    taken = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return taken


if __name__ == "__main__":
    main()
