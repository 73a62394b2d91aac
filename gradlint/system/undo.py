"""Undo what a recording changes in the user's process, whatever interrupts it.

Each change is noted before it is made, and undone by a call that does no harm if it is repeated. So an interrupted end
is simply begun again. Signals that arrive meanwhile are delivered after it.
"""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from types import CellType, FrameType
from typing import Any, ClassVar, ParamSpec, Protocol, TypeVar

from gradlint.errors import UsageError

P = ParamSpec("P")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_PATIENCE = 600.0
"""Seconds to wait until another thread's recording ends."""
_POLL = 0.01
"""Seconds between two looks whether it has ended."""


class Context(Protocol[T_co]):
    """A context whose exit may come twice, or before it is entered."""

    def __enter__(self) -> T_co: ...
    def __exit__(self, kind: None, error: None, traceback: None) -> object: ...


class Undo:
    """A list of what is to be undone, last first."""

    def __init__(self) -> None:
        self._entries: list[Callable[[], object]] = []

    def __enter__(self) -> Undo:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function at the end.

        It may be called twice, or before there is anything to undo.
        """
        self._entries.append(functools.partial(function, *arguments))

    def enter(self, context: Context[T]) -> T:
        """Enter a context until the end."""
        self.call(context.__exit__, None, None, None)
        return context.__enter__()

    def replace(self, owner: Any, name: str, new: Any) -> None:
        """Replace an attribute of a class, module or object until the end."""
        layer = _Layer(owner, name, new)
        self.call(layer.take_off)
        layer.put_on()

    @contextlib.contextmanager
    def part(self) -> Iterator[Undo]:
        """Yield a list for what ends with the block, or with this list at the latest."""
        part = Undo()
        entry = part.close
        self._entries.append(entry)
        try:
            yield part
        finally:
            part.close()
            with contextlib.suppress(ValueError):
                self._entries.remove(entry)

    def close(self) -> None:
        """Undo everything, and raise what interrupted it afterwards."""
        if not self._entries:
            return
        shield = _Shield()
        raised: BaseException | None = None
        try:
            try:
                shield.put_up()
                raised = self._undo_all()
            finally:
                shield.take_down()
        finally:
            shield.take_down()
        shield.deliver()
        if raised is not None:
            raise raised

    def _undo_all(self) -> BaseException | None:
        raised: BaseException | None = None
        while self._entries:
            entry = self._entries[-1]
            for _ in range(2):  # an interrupted call is made again
                try:
                    entry()
                    break
                except BaseException as error:
                    raised = raised or error
            if self._entries and self._entries[-1] is entry:
                self._entries.pop()
        return raised


# -- replaced attributes ----------------------------------------------------------------------------------------------

_ABSENT = object()


class _Layer:
    """A replacement for an attribute, on top of those that other recordings have put there.

    Recordings may end in any order. A replacement under another one stays until that is taken off.
    """

    stacks: ClassVar[dict[tuple[int, str], list[_Layer]]] = {}
    """(identity of the owner, name) → the layers on it, which keep the owner alive."""

    def __init__(self, owner: Any, name: str, new: Any) -> None:
        self._owner = owner
        self._name = name
        self._new = new
        self._old = _ABSENT
        self._is_over = False
        self._key = (id(owner), name)

    def put_on(self) -> None:
        """Replace the attribute."""
        self._old = self._current()
        self.stacks.setdefault(self._key, []).append(self)
        setattr(self._owner, self._name, self._new)

    def take_off(self) -> None:
        """Put the attribute back, unless user code has replaced it since."""
        self._is_over = True
        layers = self.stacks.get(self._key, [])
        while layers and layers[-1]._is_over:
            layers[-1]._put_back()
            layers.pop()
        if not layers:
            self.stacks.pop(self._key, None)

    def _put_back(self) -> None:
        if self._current() is not self._new:
            return
        if self._old is _ABSENT:
            delattr(self._owner, self._name)
        else:
            setattr(self._owner, self._name, self._old)

    def _current(self) -> Any:
        if isinstance(self._owner, CellType):
            return self._owner.cell_contents
        return vars(self._owner).get(self._name, _ABSENT)


# -- signals ----------------------------------------------------------------------------------------------------------

_SIGNALS = [
    getattr(signal, name)
    for name in ("SIGALRM", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGBREAK", "SIGINT")
    if hasattr(signal, name)
]
"""The signals whose handlers are likely to raise."""


class _Shield:
    """Keeps signals off for a short time. Python runs their handlers in the main thread alone."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._arrived: dict[int, FrameType | None] = {}

    def put_up(self) -> None:
        """Let signals wait from now on."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._arrived[number] = frame

    def take_down(self) -> None:
        """Give the user's handlers back."""
        for number, handler in self._handlers.items():
            if signal.getsignal(number) == self._note:
                signal.signal(number, handler)

    def deliver(self) -> None:
        """Deliver the signals that have arrived."""
        for number, frame in self._arrived.items():
            self._handlers[number](number, frame)


# -- one recording at a time ------------------------------------------------------------------------------------------


class Pausing(Protocol):
    """A recorder that can let calls pass unrecorded."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Turn:
    """The right of a thread to record. Other threads wait; a recording inside of one in the same thread goes ahead.

    Args:
        what: what is recorded, for messages.
        undo: undoes the recording.
        recorder: records.
        pauses: whether the recordings around it are paused, so that they do not see what this one runs.
    """

    _queue: ClassVar[list[Turn]] = []
    """Those that record or wait, in the order in which they came. The thread of the first records.

    There is no lock, which an interrupt could leave locked.
    """

    def __init__(self, what: str, undo: Undo, recorder: Pausing, *, pauses: bool) -> None:
        self._what = what
        self._undo = undo
        self._recorder = recorder
        self._pauses = pauses
        self._paused: list[Pausing] = []
        self._thread = threading.current_thread()
        self._started: weakref.WeakSet[threading.Thread] = weakref.WeakSet()

    def take(self) -> None:
        """Wait until no other thread records.

        Raises:
            UsageError: another thread's recording does not end, or waits for this thread.
        """
        self._undo.call(self.give)
        self._queue.append(self)
        until = time.monotonic() + _PATIENCE
        while (other := self._first())._thread is not self._thread:
            if self._thread in other._started:
                raise UsageError(
                    f"{self._what} cannot be recorded in a thread that {other._what} starts while it is recorded itself"
                )
            if time.monotonic() > until:
                raise UsageError(
                    f"{self._what} cannot be recorded: another thread has been recording {other._what} "
                    f"for more than {_PATIENCE:g} s"
                )
            time.sleep(_POLL)
        if self._pauses:
            for outer in self.taken():
                if outer is not self:
                    self._paused.append(outer._recorder)
                    outer._recorder.pause()

    def _first(self) -> Turn:
        return next(turn for turn in self._queue if turn._thread.is_alive())

    def give(self) -> None:
        """Let others record."""
        while self._paused:
            self._paused.pop().resume()
        if self in self._queue:
            self._queue.remove(self)

    @classmethod
    def note_started(cls, thread: threading.Thread) -> None:
        """Note a thread that is started inside of recordings."""
        starter = threading.current_thread()
        for turn in cls._queue:
            if starter is turn._thread or starter in turn._started:
                turn._started.add(thread)

    @classmethod
    def taken(cls) -> list[Turn]:
        """Return the turns of this thread."""
        return [turn for turn in cls._queue if turn._thread is threading.current_thread()]

    def end(self) -> None:
        """Undo the recording."""
        self._undo.close()


def leaving_nothing(function: Callable[P, T]) -> Callable[P, T]:
    """Return a function that ends every recording which an interrupt left open inside of it."""

    @functools.wraps(function)
    def ended(*args: P.args, **kwargs: P.kwargs) -> T:
        outer = Turn.taken()
        try:
            return function(*args, **kwargs)
        finally:
            for turn in reversed(Turn.taken()):
                if turn not in outer:
                    turn.end()

    return ended
