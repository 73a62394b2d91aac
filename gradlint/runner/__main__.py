"""Entry point of the script's process: ``python -m gradlint.runner``, with the job on its stdin."""

from __future__ import annotations

import os
import pickle
import sys

from gradlint.errors import torch_missing
from gradlint.findings import Failure, Report
from gradlint.gc_pause import frozen_imports, mark_own_process
from gradlint.runner.job import Job, leave


def main() -> None:
    """Get ready, run the job, and exit."""
    if not getattr(sys.flags, "safe_path", False):  # from Python 3.11
        del sys.path[0]  # the working directory, which ``python script.py`` does not look into
    mark_own_process()
    missing: ImportError | None = None
    with frozen_imports():
        try:
            import torch  # noqa: F401
        except ImportError as error:
            missing = error
        else:
            from gradlint.runner import child
    payload = _given()
    if not payload:
        return  # there is nothing to run after all
    job: Job = pickle.loads(payload)
    if missing is not None:
        leave(Report(errors=[Failure(job.target, str(torch_missing(missing)))]), job.report)
        sys.exit(2)
    child.main(job)


def _given() -> bytes:
    """Return all of stdin, and leave nothing to read for the script."""
    parts = []
    while part := os.read(0, 1 << 16):
        parts.append(part)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return b"".join(parts)


if __name__ == "__main__":
    main()
