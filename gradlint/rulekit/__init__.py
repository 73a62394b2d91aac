"""The parts that rules are made of: base class, context, wording, findings that several rules share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlint.lazy import lazy_names

if TYPE_CHECKING:
    from gradlint.rulekit.contract import Declaration as Declaration
    from gradlint.rulekit.contract import DeclarationKind as DeclarationKind
    from gradlint.rulekit.contract import no_match as no_match
    from gradlint.rulekit.cut_findings import report_cuts as report_cuts
    from gradlint.rulekit.executed_code import allocated_by_constructor as allocated_by_constructor
    from gradlint.rulekit.executed_code import argument_list_location as argument_list_location
    from gradlint.rulekit.executed_code import attribute_location as attribute_location
    from gradlint.rulekit.executed_code import cleared_gradients as cleared_gradients
    from gradlint.rulekit.executed_code import executed_functions as executed_functions
    from gradlint.rulekit.executed_code import executed_idle_flags as executed_idle_flags
    from gradlint.rulekit.executed_code import executed_nodes as executed_nodes
    from gradlint.rulekit.executed_code import executed_writes as executed_writes
    from gradlint.rulekit.executed_code import had_flag_until_later as had_flag_until_later
    from gradlint.rulekit.executed_code import is_repeated as is_repeated
    from gradlint.rulekit.executed_code import iterator_places as iterator_places
    from gradlint.rulekit.executed_code import repeats_a_call as repeats_a_call
    from gradlint.rulekit.executed_code import variable_location as variable_location
    from gradlint.rulekit.executed_code import variable_of as variable_of
    from gradlint.rulekit.loss_inputs import activated_finding as activated_finding
    from gradlint.rulekit.loss_inputs import are_exchanged as are_exchanged
    from gradlint.rulekit.loss_inputs import find_loss_inputs as find_loss_inputs
    from gradlint.rulekit.loss_inputs import find_losses as find_losses
    from gradlint.rulekit.loss_inputs import find_producers as find_producers
    from gradlint.rulekit.loss_inputs import find_targeted_losses as find_targeted_losses
    from gradlint.rulekit.loss_inputs import softmax_dim as softmax_dim
    from gradlint.wording import common_path as common_path
    from gradlint.wording import inflect as inflect
    from gradlint.wording import list_of as list_of
    from gradlint.wording import number_pattern as number_pattern
    from gradlint.wording import patterns_of as patterns_of
    from gradlint.wording import plural as plural
    from gradlint.wording import summarize_names as summarize_names
    from gradlint.wording import tensors as tensors
else:
    __getattr__, __dir__ = lazy_names(__name__)
