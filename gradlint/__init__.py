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
    from gradlint.rearrange import origin
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
    from gradlint.syntax.idioms import (
        Region,
        freezes,
        frozen_elsewhere,
        grad_off_regions,
        in_grad_off,
        may_bind_in_grad_off,
        module_class,
        own_attribute,
        trains,
    )
    from gradlint.syntax.iterators import consumed_whole
    from gradlint.syntax.kinds import Kind
    from gradlint.syntax.losses import Activation, activated_losses
    from gradlint.syntax.module import SourceModule
    from gradlint.syntax.order import loops_around, surely_before, value_of
    from gradlint.syntax.roundtrips import Roundtrip, roundtrips
    from gradlint.syntax.scopes import own_nodes, spelled
    from gradlint.terms import ConstantTerm, DroppedTerm
    from gradlint.traces import Event, Group, Held, Loose, Module, ModuleCall, Op, Optimizer, Parameter, Trace, Value

_HOMES = {
    "api": "check trace",
    "cost": "in_bytes in_flops weight_gradient_flops",
    "cuts": "cut_findings",
    "errors": "GradlintError TargetError UsageError",
    "findings": "Edit Finding Fix Location Related Report Severity",
    "flow": "CHECKPOINT DETACH FUNCTION GRADIENT NO_GRAD NONDIFFERENTIABLE ROUNDTRIP Cut Flow Relabel region_location",
    "rearrange": "origin",
    "rule": "Context Rule",
    "setup": "Setup",
    "sites": "Frame is_project",
    "terms": "ConstantTerm DroppedTerm",
    "source": "Function Write assigned_at attribute_writes best_write dotted executed_functions function_of given_at "
    "idle_statements",
    "syntax.idioms": "Region freezes frozen_elsewhere grad_off_regions in_grad_off may_bind_in_grad_off "
    "module_class own_attribute trains",
    "syntax.iterators": "consumed_whole",
    "syntax.kinds": "Kind",
    "syntax.losses": "Activation activated_losses",
    "syntax.module": "SourceModule",
    "syntax.order": "loops_around surely_before value_of",
    "syntax.roundtrips": "Roundtrip roundtrips",
    "syntax.scopes": "own_nodes spelled",
    "traces": "Event Group Held Loose Module ModuleCall Op Optimizer Parameter Trace Value",
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
    "Activation",
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
    "GradlintError",
    "Group",
    "Held",
    "Kind",
    "Location",
    "Loose",
    "Module",
    "ModuleCall",
    "Op",
    "Optimizer",
    "Parameter",
    "Region",
    "Relabel",
    "Related",
    "Report",
    "Roundtrip",
    "Rule",
    "Setup",
    "Severity",
    "SourceModule",
    "TargetError",
    "Trace",
    "UsageError",
    "Value",
    "Write",
    "__version__",
    "activated_losses",
    "assigned_at",
    "attribute_writes",
    "best_write",
    "check",
    "consumed_whole",
    "cut_findings",
    "dotted",
    "executed_functions",
    "freezes",
    "frozen_elsewhere",
    "function_of",
    "given_at",
    "grad_off_regions",
    "idle_statements",
    "in_bytes",
    "in_flops",
    "in_grad_off",
    "is_project",
    "loops_around",
    "may_bind_in_grad_off",
    "module_class",
    "origin",
    "own_attribute",
    "own_nodes",
    "region_location",
    "roundtrips",
    "spelled",
    "surely_before",
    "trace",
    "trains",
    "value_of",
    "weight_gradient_flops",
]
