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
    from gradlint.errors import GradlintError, TargetError, UsageError
    from gradlint.findings import Edit, Finding, Fix, Related, Report, Severity
    from gradlint.flow.cost import in_bytes, in_flops, weight_gradient_flops
    from gradlint.flow.cross_loss import Leak, LeakKind, find_leaks
    from gradlint.flow.cut import (
        Cut,
        CutKind,
        region_location,
    )
    from gradlint.flow.flow import Flow, Relabel
    from gradlint.flow.loss_terms import ConstantTerm, DroppedTerm
    from gradlint.flow.origin import origin, origins
    from gradlint.flow.outcome import (
        Outcome,
        OutcomeKind,
        group_location,
        made_site,
        moves,
        nearest_optimizer,
        outcome_of,
        replaced_frozen,
        titled,
    )
    from gradlint.flow.paths import lines_of, path_to_loss
    from gradlint.flow.siblings import siblings
    from gradlint.load.setup import Setup
    from gradlint.location import Location
    from gradlint.recording import Recording, TrainingFault, record
    from gradlint.rulekit.context import Context
    from gradlint.rulekit.contract import Contract, Declaration, DeclarationKind, no_match
    from gradlint.rulekit.cut_findings import cut_findings
    from gradlint.rulekit.executed_code import (
        argument_list_location,
        attribute_location,
        executed_functions,
        executed_idle_flags,
        executed_nodes,
        executed_writes,
        uncalled_method_statements,
        variable_location,
    )
    from gradlint.rulekit.loss_inputs import activated_finding, loss_inputs
    from gradlint.rulekit.rule import Rule
    from gradlint.rulekit.source_context import SourceContext
    from gradlint.source.accumulation import Addition, additions, has_history, is_released
    from gradlint.source.attributes import Write, attribute_writes, best_write, idle_flag_statement
    from gradlint.source.containers import Container, contents, elements, is_only_called
    from gradlint.source.file import SourceModule
    from gradlint.source.idioms import (
        Region,
        freezes,
        frozen_elsewhere,
        grad_off_bindings,
        grad_off_regions,
        in_grad_off,
        makes_trainable,
        module_class,
        own_attribute,
    )
    from gradlint.source.iterators import consumed_whole
    from gradlint.source.kinds import Kind
    from gradlint.source.lookup import Function, function_of, name_parts, syntax_tree
    from gradlint.source.losses import Activation, activated_losses
    from gradlint.source.order import loops_around, surely_before, value_of
    from gradlint.source.roundtrips import Roundtrip, roundtrips
    from gradlint.source.scopes import dotted_text, own_nodes
    from gradlint.traces.events import Event
    from gradlint.traces.sites import Frame, is_project
    from gradlint.traces.trace import (
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
    from gradlint.traces.training import Backward, Clear, Clip, Content, Kept, Schedule, Step, Training
    from gradlint.wording import inflect, list_of, plural

_HOMES = {
    "api": "check trace",
    "flow.cut": "Cut CutKind region_location",
    "rulekit.contract": "Contract Declaration DeclarationKind no_match",
    "flow.cost": "in_bytes in_flops weight_gradient_flops",
    "rulekit.cut_findings": "cut_findings",
    "errors": "GradlintError TargetError UsageError",
    "findings": "Edit Finding Fix Related Report Severity",
    "flow.flow": "Flow Relabel",
    "flow.cross_loss": "Leak LeakKind find_leaks",
    "rulekit.loss_inputs": "activated_finding loss_inputs",
    "wording": "inflect list_of plural",
    "flow.paths": "lines_of path_to_loss",
    "flow.origin": "origin origins",
    "recording": "Recording TrainingFault record",
    "flow.siblings": "siblings",
    "rulekit.context": "Context",
    "rulekit.rule": "Rule",
    "location": "Location",
    "load.setup": "Setup",
    "traces.sites": "Frame is_project",
    "rulekit.executed_code": "argument_list_location attribute_location executed_functions executed_idle_flags "
    "executed_nodes executed_writes uncalled_method_statements variable_location",
    "rulekit.source_context": "SourceContext",
    "source.accumulation": "Addition additions has_history is_released",
    "source.attributes": "Write attribute_writes best_write idle_flag_statement",
    "source.containers": "Container contents elements is_only_called",
    "flow.outcome": "Outcome OutcomeKind group_location made_site moves nearest_optimizer outcome_of "
    "replaced_frozen titled",
    "source.idioms": "Region freezes frozen_elsewhere grad_off_bindings grad_off_regions in_grad_off module_class "
    "makes_trainable own_attribute",
    "source.iterators": "consumed_whole",
    "source.kinds": "Kind",
    "source.losses": "Activation activated_losses",
    "source.lookup": "Function function_of name_parts syntax_tree",
    "source.file": "SourceModule",
    "source.order": "loops_around surely_before value_of",
    "source.roundtrips": "Roundtrip roundtrips",
    "source.scopes": "dotted_text own_nodes",
    "flow.loss_terms": "ConstantTerm DroppedTerm",
    "traces.events": "Event",
    "traces.trace": "Gradient Group Held Loose Module ModuleCall Numeric Op Optimizer Parameter Stop Trace Value",
    "traces.training": "Backward Clear Clip Content Kept Schedule Step Training",
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
    "Activation",
    "Addition",
    "Backward",
    "Clear",
    "Clip",
    "ConstantTerm",
    "Container",
    "Content",
    "Context",
    "Contract",
    "Cut",
    "CutKind",
    "Declaration",
    "DeclarationKind",
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
    "LeakKind",
    "Location",
    "Loose",
    "Module",
    "ModuleCall",
    "Numeric",
    "Op",
    "Optimizer",
    "Outcome",
    "OutcomeKind",
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
    "SourceContext",
    "SourceModule",
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
    "activated_finding",
    "activated_losses",
    "additions",
    "argument_list_location",
    "attribute_location",
    "attribute_writes",
    "best_write",
    "check",
    "consumed_whole",
    "contents",
    "cut_findings",
    "dotted_text",
    "elements",
    "executed_functions",
    "executed_idle_flags",
    "executed_nodes",
    "executed_writes",
    "find_leaks",
    "freezes",
    "frozen_elsewhere",
    "function_of",
    "grad_off_bindings",
    "grad_off_regions",
    "group_location",
    "has_history",
    "idle_flag_statement",
    "in_bytes",
    "in_flops",
    "in_grad_off",
    "inflect",
    "is_only_called",
    "is_project",
    "is_released",
    "lines_of",
    "list_of",
    "loops_around",
    "loss_inputs",
    "made_site",
    "makes_trainable",
    "module_class",
    "moves",
    "name_parts",
    "nearest_optimizer",
    "no_match",
    "origin",
    "origins",
    "outcome_of",
    "own_attribute",
    "own_nodes",
    "path_to_loss",
    "plural",
    "record",
    "region_location",
    "replaced_frozen",
    "roundtrips",
    "siblings",
    "surely_before",
    "syntax_tree",
    "titled",
    "trace",
    "uncalled_method_statements",
    "value_of",
    "variable_location",
    "weight_gradient_flops",
]
