"""The pipes between the three processes, and what is sent through them besides outcomes."""

from __future__ import annotations

import os

WORKER_STARTED = b""
"""The message that the supervisor sends when it starts the next worker."""


def pipe() -> tuple[int, int]:
    """Return a pipe that leaves the numbers of closed standard streams free."""
    import fcntl  # there is none without fork

    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3) for end in ends]
    for end in ends:
        os.close(end)
    return high[0], high[1]
