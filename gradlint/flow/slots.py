"""The names under which modules registered parameters, and what took their places."""

from __future__ import annotations

from typing import NamedTuple

from gradlint.traces.events import ChildRegistration, ParameterRegistration, Registration
from gradlint.traces.ids import ModuleIndex, ParameterKey
from gradlint.traces.trace import Trace


class Slot(NamedTuple):
    """A name of the model under which a parameter was registered."""

    fqn: str
    replaced_by: Registration | None
    """The registration that gave the name, or a module around it, to something else; None if none was seen."""


class Slots:
    """Finds the names that parameters had in the model, by the registrations of a trace."""

    def __init__(self, trace: Trace) -> None:
        """Sort the registrations of a trace by the slots that they fill."""
        self._trace = trace
        self._occupants: dict[tuple[ModuleIndex, str], list[Registration]] = {}
        self._above: dict[ModuleIndex, ChildRegistration] = {}
        self.registrations: dict[ParameterKey, list[ParameterRegistration]] = {}
        """Key of a parameter → the registrations of it, in order."""
        for event in trace.events_of(Registration):
            self._occupants.setdefault((event.module, event.name), []).append(event)
            if isinstance(event, ChildRegistration):
                self._above[event.child] = event
            else:
                assert isinstance(event, ParameterRegistration)
                self.registrations.setdefault(event.parameter, []).append(event)

    def of(self, registration: Registration) -> Slot | None:
        """Return the name that a registration gave in the model; None outside the model."""
        current: Registration | None = registration
        names: list[str] = []
        passed: set[ModuleIndex] = set()
        while current is not None and current.module not in passed:
            passed.add(current.module)
            names.insert(0, current.name)
            module = self._trace.modules[current.module] if current.module < len(self._trace.modules) else None
            if module is not None and module.in_tree:
                occupants = self._occupants[current.module, current.name]
                fqn = ".".join([module.fqn, *names] if module.fqn else names)
                return Slot(fqn, next(iter(occupants[occupants.index(current) + 1 :]), None))
            current = self._above.get(current.module)
        return None
