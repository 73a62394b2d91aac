"""Modules of one class side by side in a container: experts, task heads, layers that may be dropped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from gradlint.flow.facts import FlowFacts
from gradlint.traces.ids import ModuleIndex
from gradlint.traces.trace import Module, Parameter, Trace

_CONTAINERS = ("ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict")


def same_class_siblings(trace: Trace, parameter: Parameter) -> Iterator[Sequence[Parameter]]:
    """Yield the parameters of each module of the same class beside one that contains it.

    All containers around the parameter count. One forward proves little about a parameter if it treated a sibling's
    differently.
    """
    for module, parent in itertools.pairwise(trace.around(parameter.module)):
        if parent.type.name in _CONTAINERS:
            for other in (trace.modules[number] for _, number in parent.children):
                if other.parent == parent.number and other.type == module.type and other is not module:
                    yield trace.below(other)


class SiblingsThatRan:
    """Finds the parameters beside whose module one of its class ran: routing, layer drop, task heads."""

    def __init__(self, flow: FlowFacts) -> None:
        """Note the flow; the modules of a container are looked through once for each class."""
        self._flow = flow
        self._ran: dict[tuple[ModuleIndex, object], list[ModuleIndex]] = {}
        """(container, class) → the first two of its modules that the loss depends on."""

    def __contains__(self, parameter: Parameter) -> bool:
        """Return True if a module of the same class beside one around a parameter ran."""
        around = itertools.pairwise(self._flow.trace.around(parameter.module))
        return any(
            any(number != module.number for number in self._that_ran(parent, module.type))
            for module, parent in around
            if parent.type.name in _CONTAINERS
        )

    def _that_ran(self, container: Module, kind: object) -> list[ModuleIndex]:
        key = container.number, kind
        if key not in self._ran:
            trace, depends = self._flow.trace, self._flow.depends
            alike = (number for _, number in container.children if trace.modules[number].type == kind)
            own = (number for number in alike if trace.modules[number].parent == container.number)
            ran = (n for n in own if any(p.index in depends for p in trace.below(trace.modules[n])))
            self._ran[key] = list(itertools.islice(ran, 2))
        return self._ran[key]
