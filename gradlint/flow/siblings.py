"""Modules of one class side by side in a container: experts, task heads, layers that may be dropped."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

from gradlint.traces.trace import Parameter, Trace

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
