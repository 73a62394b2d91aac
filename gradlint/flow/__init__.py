"""The facts derived from a trace: dependence on the loss, gradient, and the cuts between."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlint.lazy import lazy_names

if TYPE_CHECKING:
    from gradlint.flow.broadcast import repeated_shape as repeated_shape
    from gradlint.flow.cancelled_terms import find_cancelled_terms as find_cancelled_terms
    from gradlint.flow.cost import in_bytes as in_bytes
    from gradlint.flow.cost import in_flops as in_flops
    from gradlint.flow.cost import weight_gradient_flops as weight_gradient_flops
    from gradlint.flow.cross_loss import CrossLossKind as CrossLossKind
    from gradlint.flow.cross_loss import find_cross_loss_gradients as find_cross_loss_gradients
    from gradlint.flow.cut import Cut as Cut
    from gradlint.flow.cut import CutKind as CutKind
    from gradlint.flow.cut import region_location as region_location
    from gradlint.flow.frozen_optimizers import FrozenOptimizer as FrozenOptimizer
    from gradlint.flow.loads import LostLoad as LostLoad
    from gradlint.flow.loads import ignored_loads as ignored_loads
    from gradlint.flow.loads import is_read_from_file as is_read_from_file
    from gradlint.flow.loads import is_whole as is_whole
    from gradlint.flow.loads import lost_loads as lost_loads
    from gradlint.flow.loads import own_loads as own_loads
    from gradlint.flow.loss_terms import ConstantTerm as ConstantTerm
    from gradlint.flow.marks import ContradictedMark as ContradictedMark
    from gradlint.flow.marks import contradicted_marks as contradicted_marks
    from gradlint.flow.origin import computed_value as computed_value
    from gradlint.flow.origin import computed_values as computed_values
    from gradlint.flow.origin import rearranging_ops as rearranging_ops
    from gradlint.flow.outcome import Outcome as Outcome
    from gradlint.flow.outcome import OutcomeKind as OutcomeKind
    from gradlint.flow.outcome import group_location as group_location
    from gradlint.flow.outcome import made_site as made_site
    from gradlint.flow.outcome import nearest_optimizer as nearest_optimizer
    from gradlint.flow.outcome import optimizer_label as optimizer_label
    from gradlint.flow.outcome import outcome_of as outcome_of
    from gradlint.flow.outcome import replaced_frozen as replaced_frozen
    from gradlint.flow.outcome import value_change_of as value_change_of
    from gradlint.flow.own_losses import own_passes as own_passes
    from gradlint.flow.parted import PartedOptimizer as PartedOptimizer
    from gradlint.flow.paths import lines_of as lines_of
    from gradlint.flow.paths import path_to_loss as path_to_loss
    from gradlint.flow.pretrained import left_out_blocks as left_out_blocks
    from gradlint.flow.pretrained import pretrained_loads as pretrained_loads
    from gradlint.flow.replaced import FrozenInPlace as FrozenInPlace
    from gradlint.flow.replaced import frozen_in_place as frozen_in_place
    from gradlint.flow.siblings import SiblingsThatRan as SiblingsThatRan
    from gradlint.flow.siblings import same_class_siblings as same_class_siblings
    from gradlint.flow.stuck_at_zero import ZeroInSteps as ZeroInSteps
    from gradlint.flow.stuck_at_zero import flat_in_steps as flat_in_steps
    from gradlint.flow.stuck_at_zero import zero_in_steps as zero_in_steps
    from gradlint.flow.ties import PartedTie as PartedTie
    from gradlint.flow.ties import parted_ties as parted_ties
    from gradlint.flow.uninitialised import never_written as never_written
    from gradlint.flow.untrained_terms import find_untrained_terms as find_untrained_terms
else:
    __getattr__, __dir__ = lazy_names(__name__)
