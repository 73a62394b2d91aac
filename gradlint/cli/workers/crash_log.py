"""Notes and tracebacks of a worker, for ends that Python cannot report."""

from __future__ import annotations

import contextlib
import os


class CrashLog:
    """Notes and tracebacks that a worker leaves for the supervisor, in a file without a name."""

    def __init__(self) -> None:
        import fcntl  # there is none without fork

        if hasattr(os, "memfd_create"):  # needs no folder that can be written to
            made = os.memfd_create("gradlint")
        else:
            import tempfile  # slow to import

            with tempfile.TemporaryFile() as file:
                made = os.dup(file.fileno())
        self._number = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)  # not the number of a closed stdout
        os.close(made)

    def write(self, *words: object) -> None:
        """Add an entry."""
        with contextlib.suppress(OSError):
            os.write(self._number, ("\n@" + " ".join(map(str, words)) + "\n").encode("utf-8", "surrogateescape"))

    def fileno(self) -> int:
        """Return the number of its descriptor."""
        return self._number

    def size(self) -> int:
        """Return its length in bytes."""
        return os.fstat(self._number).st_size

    def text(self) -> str:
        """Return all entries."""
        data = os.pread(self._number, self.size(), 0)  # the offset is the writer's
        return data.decode("utf-8", "surrogateescape")

    def close(self) -> None:
        """Close the file."""
        os.close(self._number)
