"""A pool of processes that judge files; it ends with the process that made it, whatever ends that."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

from gradlint.system import process_tree


@contextlib.contextmanager
def pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that import no module of the working directory.

    That is where the files to read lie. An exception ends the processes at once, whatever they judge.
    """
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    others = set(multiprocessing.active_children())
    try:
        with ProcessPoolExecutor(workers, initializer=_end_with_parent) as made:
            try:
                yield made
            except BaseException:
                made.shutdown(wait=False, cancel_futures=True)
                for worker in set(multiprocessing.active_children()) - others:
                    worker.kill()
                raise
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _end_with_parent() -> None:
    """Let this worker end when the process that made the pool ends.

    The queue of a pool never ends for a worker, because the other workers hold its writing end. So a thread waits. C
    code that holds the lock of the interpreter delays the thread; on Linux, the system does not wait for it.
    """
    process_tree.end_with_parent()
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()  # not the server of forks, if there is one
    if parent is not None:
        parent.join()
        os._exit(1)
