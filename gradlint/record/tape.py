"""What a recording writes to: ops, values and events, in the order in which they happen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from gradlint.record.chains import OpenCall
from gradlint.sites import Sites
from gradlint.traces import GRAD_ON, Event, Op, Value


class FunctionRun(NamedTuple):
    """One run of a custom autograd.Function."""

    cls: Any
    inputs: tuple[int, ...]
    site: int
    region: int
    marker: tuple[int, int]
    """(id of the frame, id of its arguments): the same while the call lasts."""


class Tape:
    """The growing record."""

    def __init__(self) -> None:
        self.sites = Sites()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.events: list[Event] = []
        self.calls: list[OpenCall] = []
        """The module calls that have not returned, outermost first."""
        self.region = GRAD_ON
        self.runs: list[FunctionRun] = []
        self.run_of: dict[int, int] = {}
        """Op → number of the custom Function run it is inside of."""
        self.unseen: list[tuple[str, int]] = []
        self._seen_unseen: set[tuple[str, int]] = set()

    def synthetic(self, func: Any, kind: int, inputs: tuple[int, ...], output: int, site: int, region: int) -> None:
        """Write down an op that stands for no recorded call."""
        call = self.calls[-1].number if self.calls else -1
        self.ops.append(Op(func, site, call, region, inputs, (output,), (), None, kind))

    def event(self, kind: str, data: Mapping[str, Any], site: int) -> Event:
        """Write down something that is no op."""
        event = Event(kind, len(self.events), len(self.ops), site, self.region, data)
        self.events.append(event)
        return event

    def note_unseen(self, what: str, site: int) -> None:
        """Remember that something could not be recorded (once per place)."""
        if (what, site) not in self._seen_unseen:
            self._seen_unseen.add((what, site))
            self.unseen.append((what, site))
