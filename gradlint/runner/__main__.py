"""Where the script's process begins: ``python -m gradlint.runner JOB``."""

from __future__ import annotations

import sys

from gradlint.errors import torch_missing
from gradlint.findings import Failure, Report
from gradlint.runner.job import Job, leave


def main() -> None:
    """Run the job that the command line names, and exit."""
    job = Job.from_text(sys.argv[1])
    try:
        import torch  # noqa: F401
    except ImportError as error:
        leave(Report(errors=[Failure(job.target, str(torch_missing(error)))]), job.report)
        sys.exit(2)
    from gradlint.runner import child

    child.main(job)


if __name__ == "__main__":
    main()
