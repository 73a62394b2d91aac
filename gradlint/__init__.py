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
    from gradlint.contracts import Contract, Declaration, no_match
    from gradlint.cost import in_bytes, in_flops, weight_gradient_flops
    from gradlint.cuts import cut_findings
    from gradlint.errors import GradlintError, TargetError, UsageError
    from gradlint.findings import Edit, Finding, Fix, Location, Related, Report, Severity
    from gradlint.flow import Flow, Relabel
    from gradlint.leaks import Leak, find_leaks
    from gradlint.naming import agree
    from gradlint.paths import lines_of, path_to_loss
    from gradlint.rearrange import origin, origins
    from gradlint.recordings import Recording, TrainingFault
    from gradlint.relatives import siblings
    from gradlint.rule import Context, Rule
    from gradlint.setup import Setup
    from gradlint.sites import Frame, is_project, syntax_tree
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
        uncalled,
        variable_assigned_at,
    )
    from gradlint.states import (
        Standing,
        drops,
        group_location,
        made_site,
        moves,
        nearest_optimizer,
        replaced_frozen,
        standing,
        titled,
    )
    from gradlint.syntax.idioms import (
        Region,
        freezes,
        frozen_elsewhere,
        grad_off_bindings,
        grad_off_regions,
        in_grad_off,
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
    from gradlint.training import Backward, Clear, Clip, Content, Kept, Schedule, Step, Training

_HOMES = {
    "api": "check trace",
    "blame": "CHECKPOINT DETACH FUNCTION GRADIENT NONDIFFERENTIABLE NO_GRAD ROUNDTRIP Cut region_location",
    "contracts": "Contract Declaration no_match",
    "cost": "in_bytes in_flops weight_gradient_flops",
    "cuts": "cut_findings",
    "errors": "GradlintError TargetError UsageError",
    "findings": "Edit Finding Fix Location Related Report Severity",
    "flow": "Flow Relabel",
    "leaks": "Leak find_leaks",
    "losses": "activated_finding fed_losses",
    "naming": "agree",
    "paths": "lines_of path_to_loss",
    "rearrange": "origin origins",
    "recordings": "Recording TrainingFault",
    "relatives": "siblings",
    "rule": "Context Rule",
    "setup": "Setup",
    "sites": "Frame is_project syntax_tree",
    "source": "Function Write assigned_at attribute_writes best_write dotted executed_functions function_of "
    "given_at idle_statements uncalled variable_assigned_at",
    "states": "Standing drops group_location made_site moves nearest_optimizer replaced_frozen standing titled",
    "syntax.idioms": "Region freezes frozen_elsewhere grad_off_bindings grad_off_regions in_grad_off module_class "
    "own_attribute trains",
    "syntax.iterators": "consumed_whole",
    "syntax.kinds": "Kind",
    "syntax.losses": "Activation activated_losses",
    "syntax.module": "SourceModule",
    "syntax.order": "loops_around surely_before value_of",
    "syntax.roundtrips": "Roundtrip roundtrips",
    "syntax.scopes": "own_nodes spelled",
    "terms": "ConstantTerm DroppedTerm",
    "traces": "Event Gradient Group Held Loose Module ModuleCall Numeric Op Optimizer Parameter Stop Trace Value",
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
    "Activation",
    "Backward",
    "Clear",
    "Clip",
    "ConstantTerm",
    "Content",
    "Context",
    "Contract",
    "Cut",
    "Declaration",
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
    "Kept",
    "Kind",
    "Leak",
    "Location",
    "Loose",
    "Module",
    "ModuleCall",
    "Numeric",
    "Op",
    "Optimizer",
    "Parameter",
    "Recording",
    "Region",
    "Relabel",
    "Related",
    "Report",
    "Roundtrip",
    "Rule",
    "Schedule",
    "Setup",
    "Severity",
    "SourceModule",
    "Standing",
    "Step",
    "Stop",
    "TargetError",
    "Trace",
    "Training",
    "TrainingFault",
    "UsageError",
    "Value",
    "Write",
    "__version__",
    "activated_losses",
    "agree",
    "assigned_at",
    "attribute_writes",
    "best_write",
    "check",
    "consumed_whole",
    "cut_findings",
    "dotted",
    "drops",
    "executed_functions",
    "find_leaks",
    "freezes",
    "frozen_elsewhere",
    "function_of",
    "given_at",
    "grad_off_bindings",
    "grad_off_regions",
    "group_location",
    "idle_statements",
    "in_bytes",
    "in_flops",
    "in_grad_off",
    "is_project",
    "lines_of",
    "loops_around",
    "made_site",
    "module_class",
    "moves",
    "nearest_optimizer",
    "no_match",
    "origin",
    "origins",
    "own_attribute",
    "own_nodes",
    "path_to_loss",
    "record",
    "region_location",
    "replaced_frozen",
    "roundtrips",
    "siblings",
    "spelled",
    "standing",
    "surely_before",
    "syntax_tree",
    "titled",
    "trace",
    "trains",
    "uncalled",
    "value_of",
    "variable_assigned_at",
    "weight_gradient_flops",
]
