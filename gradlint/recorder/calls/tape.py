"""Collect ops, values and events in the order in which they happen."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Iterable
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from gradlint.recorder.calls.call_chains import OpenCall
from gradlint.recorder.calls.site_table import SiteTable
from gradlint.traces.events import Event
from gradlint.traces.ids import NO_CALL, NO_OP, EventIndex, OpIndex, SiteId, ValueId
from gradlint.traces.ops import GRAD_ON, Op, Value

_Fields = ParamSpec("_Fields")
_Event = TypeVar("_Event", bound=Event)

_LOOKED_BACK = 8
"""Number of the latest exported numbers that an argument is compared with."""


def _short(number: float) -> float:
    """Return the nearest float of four significant digits."""
    return float(f"{number:.4g}")


class FunctionRun(NamedTuple):
    """One run of a custom autograd.Function."""

    cls: Any
    inputs: tuple[ValueId, ...]
    site: SiteId
    region: EventIndex
    marker: tuple[int, int]
    """(identity of the frame, hash of its arguments' identities), constant during the call."""


class Tape:
    """The growing record."""

    def __init__(self) -> None:
        self.sites = SiteTable()
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.events: list[Event] = []
        self.calls: list[OpenCall] = []
        """Module calls that have not returned, outermost first."""
        self.region = GRAD_ON
        self.nodes: list[tuple[int, OpIndex]] | None = None
        """(number of the next node of autograd, index of the op that was just recorded); None while not collected."""
        self.runs: list[FunctionRun] = []
        self.run_of: dict[int, int] = {}
        """Index of an op → index into `runs` of the custom Function run around it."""
        self.exported_numbers: dict[int, list[Any]] = {}
        """Identity of a Python number that `item()` and the like returned → [the number, index of the op]."""
        self.on_probabilities: list[OpIndex] = []
        """Indices of the ops that expect logits and got probabilities, by their values."""
        self.unrecorded: list[tuple[str, SiteId]] = []
        self._seen_unseen: set[tuple[str, SiteId]] = set()

    def op_of_node(self, node: Any) -> OpIndex:
        """Return the op that created a node of autograd; NO_OP if unknown."""
        number = getattr(node, "_sequence_nr", None)
        position = bisect.bisect_right(self.nodes, (number(), len(self.ops))) if number and self.nodes else -1
        return self.nodes[position][1] if self.nodes and 0 <= position < len(self.nodes) else NO_OP

    def synthetic(
        self, func: Any, kind: int, inputs: tuple[ValueId, ...], output: ValueId, site: SiteId, region: EventIndex
    ) -> None:
        """Append an op for which no call was recorded."""
        call = self.calls[-1].number if self.calls else NO_CALL
        self.ops.append(Op(func, site, call, region, inputs, (output,), (), None, kind))

    def values_of_returned_numbers(self, arguments: Iterable[Any]) -> tuple[ValueId, ...]:
        """Return the values of the arguments that are exported numbers, or multiples of them."""
        values: tuple[ValueId, ...] = ()
        for argument in arguments:
            kind = type(argument)
            if kind is float:
                entry = self.exported_numbers.get(id(argument)) or self._weighted(argument)
                if entry is not None:
                    values += (self._value_of(entry[1]),)
            elif kind is list or kind is tuple:
                values += self.values_of_returned_numbers(argument)
        return values

    def _weighted(self, argument: float) -> list[Any] | None:
        """Return the latest exported number of which an argument is a multiple, if any.

        The factor must have at most four digits, as people write factors. Such a factor that gives a float to its last
        bit is no coincidence, unless both numbers are that short themselves.
        """
        if not argument or _short(argument) == argument:
            return None
        for entry in itertools.islice(reversed(self.exported_numbers.values()), _LOOKED_BACK):
            number = entry[0]
            if number and math.isfinite(ratio := argument / number) and _short(number) != number:
                factor = _short(ratio)
                inverse = _short(1.0 / ratio) if ratio else 0.0
                if factor * number == argument or (inverse and number / inverse == argument):
                    return entry
        return None

    def _value_of(self, number: OpIndex) -> ValueId:
        """Return the value of the Python number that an op returned, after creating it if need be."""
        op = self.ops[number]
        if not op.outputs:
            self.values.append(Value(number, False, (), "float"))
            self.ops[number] = op = op._replace(outputs=(ValueId(len(self.values) - 1),))
        return op.outputs[0]

    def event(
        self,
        kind: Callable[Concatenate[EventIndex, OpIndex, SiteId, EventIndex, _Fields], _Event],
        site: SiteId,
        *fields: _Fields.args,
        **named: _Fields.kwargs,
    ) -> _Event:
        """Record an event of a kind, given the fields that the kind adds to those of every event."""
        event = kind(EventIndex(len(self.events)), OpIndex(len(self.ops)), site, self.region, *fields, **named)
        self.events.append(event)
        return event

    def note_unseen(self, what: str, site: SiteId) -> None:
        """Note something that could not be recorded, once per site."""
        if (what, site) not in self._seen_unseen:
            self._seen_unseen.add((what, site))
            self.unrecorded.append((what, site))
