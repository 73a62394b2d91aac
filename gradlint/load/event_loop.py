"""An event loop for coroutines of user code; that of the caller is neither used nor replaced, even while it runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class OwnLoop:
    """A new event loop, which nothing but gradlint knows."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()

    def run(self, awaitable: Awaitable[T]) -> T:
        """Return the result of a coroutine or future, or raise its exception."""
        with _no_loop_running():
            return self._loop.run_until_complete(awaitable)

    def close(self) -> None:
        """Cancel what still runs, and close the loop."""
        try:
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.run(_all_ended(tasks))
            self.run(self._loop.shutdown_asyncgens())
            self.run(self._loop.shutdown_default_executor())
        finally:
            self._loop.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine, as `asyncio.run` does in a process of its own."""
    with contextlib.closing(OwnLoop()) as loop:
        return loop.run(coroutine)


async def _all_ended(tasks: set[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def _no_loop_running() -> Iterator[None]:
    """Hide the loop that runs in this thread, a notebook's for example, and its current task."""
    running = asyncio._get_running_loop()
    if running is None:
        yield
        return
    swap = getattr(asyncio.tasks, "_swap_current_task", None)  # from Python 3.12
    task = swap(running, None) if swap is not None else None
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(running)
        if swap is not None:
            swap(running, task)
