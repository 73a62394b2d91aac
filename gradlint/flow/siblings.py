"""Modules of one class side by side in a container: experts, task heads, layers that may be dropped.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator

from gradlint.traces.trace import Parameter, Trace

_CONTAINERS = ("ModuleList", "ModuleDict", "Sequential", "ParameterList", "ParameterDict")


def same_class_siblings(trace: Trace, parameter: Parameter) -> Iterator[list[Parameter]]:
    """For each module of the same class beside one that a parameter is in, in any container around it: its parameters.

    What one forward does with a parameter says little where it did another thing with a sibling's.
    """
    module = trace.modules[parameter.module]
    while module.parent >= 0:
        parent = trace.modules[module.parent]
        if parent.type.name in _CONTAINERS:
            for other in trace.modules:
                if other.parent == parent.number and other.type == module.type and other is not module:
                    prefix = f"{other.fqn}."
                    yield [p for p in trace.parameters if p.fqn.startswith(prefix)]
        module = parent
