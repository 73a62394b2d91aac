"""gradlint: a static model-graph linter for PyTorch.

Importing it imports no torch; recording a set-up does. Names are loaded when they are first used, so that the command
starts fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gradlint._version import __version__

if TYPE_CHECKING:
    from gradlint.api import check, trace
    from gradlint.containers import siblings
    from gradlint.cost import in_bytes, in_flops, weight_gradient_flops
    from gradlint.cuts import cut_findings
    from gradlint.errors import GradlintError, TargetError, UsageError
    from gradlint.findings import Edit, Finding, Fix, Location, Related, Report, Severity
    from gradlint.flow import (
        CHECKPOINT,
        DETACH,
        FUNCTION,
        GRADIENT,
        NO_GRAD,
        NONDIFFERENTIABLE,
        ROUNDTRIP,
        Cut,
        Flow,
        Relabel,
        region_location,
    )
    from gradlint.naming import agree
    from gradlint.rearrange import origin, origins
    from gradlint.rule import Context, Rule
    from gradlint.setup import Setup
    from gradlint.sites import Frame, is_project
    from gradlint.source import (
        Function,
        Write,
        assigned_at,
        attribute_writes,
        best_write,
        dotted,
        executed_functions,
        function_of,
        given_at,
        idle_statements,
        variable_assigned_at,
    )
    from gradlint.terms import ConstantTerm, DroppedTerm
    from gradlint.traces import (
        Event,
        Gradient,
        Group,
        Held,
        Loose,
        Module,
        ModuleCall,
        Numeric,
        Op,
        Optimizer,
        Parameter,
        Stop,
        Trace,
        Value,
    )

_HOMES = {
    "api": "check trace",
    "cost": "in_bytes in_flops weight_gradient_flops",
    "cuts": "cut_findings",
    "errors": "GradlintError TargetError UsageError",
    "findings": "Edit Finding Fix Location Related Report Severity",
    "flow": "CHECKPOINT DETACH FUNCTION GRADIENT NO_GRAD NONDIFFERENTIABLE ROUNDTRIP Cut Flow Relabel region_location",
    "naming": "agree",
    "rearrange": "origin origins",
    "rule": "Context Rule",
    "setup": "Setup",
    "containers": "siblings",
    "sites": "Frame is_project",
    "terms": "ConstantTerm DroppedTerm",
    "source": "Function Write assigned_at attribute_writes best_write dotted executed_functions function_of given_at "
    "idle_statements variable_assigned_at",
    "traces": "Event Gradient Group Held Loose Module ModuleCall Numeric Op Optimizer Parameter Stop Trace Value",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'gradlint' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradlint.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})


__all__ = [
    "CHECKPOINT",
    "DETACH",
    "FUNCTION",
    "GRADIENT",
    "NONDIFFERENTIABLE",
    "NO_GRAD",
    "ROUNDTRIP",
    "ConstantTerm",
    "Context",
    "Cut",
    "DroppedTerm",
    "Edit",
    "Event",
    "Finding",
    "Fix",
    "Flow",
    "Frame",
    "Function",
    "Gradient",
    "GradlintError",
    "Group",
    "Held",
    "Location",
    "Loose",
    "Module",
    "ModuleCall",
    "Numeric",
    "Op",
    "Optimizer",
    "Parameter",
    "Relabel",
    "Related",
    "Report",
    "Rule",
    "Setup",
    "Severity",
    "Stop",
    "TargetError",
    "Trace",
    "UsageError",
    "Value",
    "Write",
    "__version__",
    "agree",
    "assigned_at",
    "attribute_writes",
    "best_write",
    "check",
    "cut_findings",
    "dotted",
    "executed_functions",
    "function_of",
    "given_at",
    "idle_statements",
    "in_bytes",
    "in_flops",
    "is_project",
    "origin",
    "origins",
    "region_location",
    "siblings",
    "trace",
    "variable_assigned_at",
    "weight_gradient_flops",
]
