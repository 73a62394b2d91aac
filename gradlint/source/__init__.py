"""The facts that the syntax of a file proves; nothing of it runs, and torch is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlint.lazy import lazy_names

if TYPE_CHECKING:
    from gradlint.source.accumulation import additions as additions
    from gradlint.source.accumulation import has_history as has_history
    from gradlint.source.accumulation import is_released as is_released
    from gradlint.source.attributes import Write as Write
    from gradlint.source.attributes import attribute_writes as attribute_writes
    from gradlint.source.attributes import best_write as best_write
    from gradlint.source.attributes import idle_flag_statement as idle_flag_statement
    from gradlint.source.containers import Container as Container
    from gradlint.source.containers import contents as contents
    from gradlint.source.containers import elements as elements
    from gradlint.source.containers import is_only_called as is_only_called
    from gradlint.source.copies import copies_own_value as copies_own_value
    from gradlint.source.copies import networks_copied as networks_copied
    from gradlint.source.dropouts import DropoutFault as DropoutFault
    from gradlint.source.dropouts import HardWiredDropout as HardWiredDropout
    from gradlint.source.dropouts import asks_for_mode as asks_for_mode
    from gradlint.source.dropouts import hard_wired_dropout as hard_wired_dropout
    from gradlint.source.dropouts import hard_wired_dropouts as hard_wired_dropouts
    from gradlint.source.idioms import Region as Region
    from gradlint.source.idioms import freezes as freezes
    from gradlint.source.idioms import frozen_elsewhere as frozen_elsewhere
    from gradlint.source.idioms import grad_off_bindings as grad_off_bindings
    from gradlint.source.idioms import in_grad_off as in_grad_off
    from gradlint.source.idioms import is_flag_set as is_flag_set
    from gradlint.source.idioms import makes_trainable as makes_trainable
    from gradlint.source.idioms import module_class as module_class
    from gradlint.source.idioms import own_attribute as own_attribute
    from gradlint.source.iterators import consumed_whole as consumed_whole
    from gradlint.source.kinds import Kind as Kind
    from gradlint.source.lookup import Function as Function
    from gradlint.source.lookup import call_and_file_at as call_and_file_at
    from gradlint.source.lookup import call_at as call_at
    from gradlint.source.lookup import class_of as class_of
    from gradlint.source.lookup import definition_location as definition_location
    from gradlint.source.lookup import function_of as function_of
    from gradlint.source.lookup import name_parts as name_parts
    from gradlint.source.lookup import syntax_tree as syntax_tree
    from gradlint.source.losses import Activation as Activation
    from gradlint.source.losses import activated_losses as activated_losses
    from gradlint.source.losses import exchanged_losses as exchanged_losses
    from gradlint.source.order import loops_around as loops_around
    from gradlint.source.order import surely_before as surely_before
    from gradlint.source.order import value_of as value_of
    from gradlint.source.roundtrips import find_roundtrips as find_roundtrips
    from gradlint.source.scopes import defaults as defaults
    from gradlint.source.scopes import dotted_text as dotted_text
    from gradlint.source.scopes import last_name as last_name
    from gradlint.source.training_loops import bound_in as bound_in
    from gradlint.source.training_loops import functions_and_loops as functions_and_loops
    from gradlint.source.training_loops import is_mode_free as is_mode_free
    from gradlint.source.training_loops import preceding as preceding
    from gradlint.source.training_order import CodeEffect as CodeEffect
    from gradlint.source.training_order import EffectKind as EffectKind
    from gradlint.source.training_order import FunctionEffects as FunctionEffects
else:
    __getattr__, __dir__ = lazy_names(__name__)
