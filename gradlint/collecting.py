"""Python's garbage collector, kept away from what stays for the whole life of a process."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """For imports at the beginning of a process of gradlint's own: what is there afterwards is never looked at again.

    Collections make a seventh of the time that ``import torch`` takes, and as much of the time of what is imported
    after it, for each of them goes through all of torch again. To the code that runs later the collector is as ever.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


@contextlib.contextmanager
def sparing(until: Callable[[], bool]) -> Iterator[None]:
    """Have the collector look once at what a script makes before `until` says so: its imports, which stay.

    What survived a full collection by then is not looked at again, so that what of it is given up later is not freed
    before somebody calls `gc.unfreeze`.
    """

    def collected(phase: str, info: dict[str, int]) -> None:
        if phase == "stop" and info["generation"] == 2 and not until():
            gc.freeze()

    gc.callbacks.append(collected)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the script has cleared the list
            gc.callbacks.remove(collected)
