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
    from gradlint.blame import (
        CHECKPOINT,
        DETACH,
        FUNCTION,
        GRADIENT,
        NO_GRAD,
        NONDIFFERENTIABLE,
        ROUNDTRIP,
        Cut,
        region_location,
    )
    from gradlint.cost import in_bytes, in_flops, weight_gradient_flops
    from gradlint.cuts import cut_findings
    from gradlint.errors import GradlintError, TargetError, UsageError
    from gradlint.findings import Edit, Finding, Fix, Location, Related, Report, Severity
    from gradlint.flow import Flow, Relabel
    from gradlint.leaks import Leak, find_leaks
    from gradlint.rearrange import origin
    from gradlint.recordings import Recording, TrainingFault
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
    )
    from gradlint.terms import ConstantTerm, DroppedTerm
    from gradlint.traces import Event, Group, Held, Loose, Module, ModuleCall, Op, Optimizer, Parameter, Trace, Value
    from gradlint.training import Backward, Clear, Clip, Content, Kept, Schedule, Step, Training

_HOMES = {
    "api": "check trace",
    "blame": "CHECKPOINT DETACH FUNCTION GRADIENT NO_GRAD NONDIFFERENTIABLE ROUNDTRIP Cut region_location",
    "cost": "in_bytes in_flops weight_gradient_flops",
    "cuts": "cut_findings",
    "errors": "GradlintError TargetError UsageError",
    "findings": "Edit Finding Fix Location Related Report Severity",
    "flow": "Flow Relabel",
    "leaks": "Leak find_leaks",
    "rearrange": "origin",
    "recordings": "Recording TrainingFault",
    "rule": "Context Rule",
    "setup": "Setup",
    "sites": "Frame is_project",
    "terms": "ConstantTerm DroppedTerm",
    "source": "Function Write assigned_at attribute_writes best_write dotted executed_functions function_of given_at "
    "idle_statements",
    "traces": "Event Group Held Loose Module ModuleCall Op Optimizer Parameter Trace Value",
    "training": "Backward Clear Clip Content Kept Schedule Step Training",
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name == "record":  # the package of that name is the function, too
        return importlib.import_module("gradlint.record")
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
    "Backward",
    "Clear",
    "Clip",
    "ConstantTerm",
    "Content",
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
    "GradlintError",
    "Group",
    "Held",
    "Kept",
    "Leak",
    "Location",
    "Loose",
    "Module",
    "ModuleCall",
    "Op",
    "Optimizer",
    "Parameter",
    "Recording",
    "Relabel",
    "Related",
    "Report",
    "Rule",
    "Schedule",
    "Setup",
    "Severity",
    "Step",
    "TargetError",
    "Trace",
    "Training",
    "TrainingFault",
    "UsageError",
    "Value",
    "Write",
    "__version__",
    "assigned_at",
    "attribute_writes",
    "best_write",
    "check",
    "cut_findings",
    "dotted",
    "executed_functions",
    "find_leaks",
    "function_of",
    "given_at",
    "idle_statements",
    "in_bytes",
    "in_flops",
    "is_project",
    "origin",
    "record",
    "region_location",
    "trace",
    "weight_gradient_flops",
]
