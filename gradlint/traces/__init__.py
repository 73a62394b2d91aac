"""The record of a run, as plain data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlint.lazy import lazy_names

if TYPE_CHECKING:
    from gradlint.traces.dataflow import indices as indices
    from gradlint.traces.dataflow import mask_of as mask_of
    from gradlint.traces.dataflow import propagate as propagate
    from gradlint.traces.dataflow import union as union
    from gradlint.traces.events import BackwardCalled as BackwardCalled
    from gradlint.traces.events import ChildRegistration as ChildRegistration
    from gradlint.traces.events import Freeze as Freeze
    from gradlint.traces.events import GradModeOff as GradModeOff
    from gradlint.traces.events import GroupAdded as GroupAdded
    from gradlint.traces.events import IgnoredState as IgnoredState
    from gradlint.traces.events import ModeSwitch as ModeSwitch
    from gradlint.traces.events import OptimizerMade as OptimizerMade
    from gradlint.traces.events import ParameterRegistration as ParameterRegistration
    from gradlint.traces.events import ParametersExchanged as ParametersExchanged
    from gradlint.traces.events import ParameterWrite as ParameterWrite
    from gradlint.traces.events import PhaseBegun as PhaseBegun
    from gradlint.traces.events import Registration as Registration
    from gradlint.traces.events import StateLoaded as StateLoaded
    from gradlint.traces.events import StepCalled as StepCalled
    from gradlint.traces.events import Unfreeze as Unfreeze
    from gradlint.traces.events import ZeroGradCalled as ZeroGradCalled
    from gradlint.traces.ids import NO_MODULE as NO_MODULE
    from gradlint.traces.ids import NO_SITE as NO_SITE
    from gradlint.traces.ids import BackwardIndex as BackwardIndex
    from gradlint.traces.ids import CallIndex as CallIndex
    from gradlint.traces.ids import ModuleIndex as ModuleIndex
    from gradlint.traces.ids import OpIndex as OpIndex
    from gradlint.traces.ids import ParameterIndex as ParameterIndex
    from gradlint.traces.ids import ParameterKey as ParameterKey
    from gradlint.traces.ids import SiteId as SiteId
    from gradlint.traces.ids import ValueId as ValueId
    from gradlint.traces.op_families import ACTIVATIONS as ACTIVATIONS
    from gradlint.traces.op_families import ADD as ADD
    from gradlint.traces.op_families import ALL_CONVOLUTIONS as ALL_CONVOLUTIONS
    from gradlint.traces.op_families import ATTENTION as ATTENTION
    from gradlint.traces.op_families import BIASED_LAYERS as BIASED_LAYERS
    from gradlint.traces.op_families import DETACHED_VALUES as DETACHED_VALUES
    from gradlint.traces.op_families import DIVIDE as DIVIDE
    from gradlint.traces.op_families import DROPOUTS as DROPOUTS
    from gradlint.traces.op_families import JOINS as JOINS
    from gradlint.traces.op_families import LOG_PROBABILITIES as LOG_PROBABILITIES
    from gradlint.traces.op_families import MULTIPLY as MULTIPLY
    from gradlint.traces.op_families import NEGATE as NEGATE
    from gradlint.traces.op_families import NORMS as NORMS
    from gradlint.traces.op_families import PROBABILITIES as PROBABILITIES
    from gradlint.traces.op_families import RANDOM_TENSORS as RANDOM_TENSORS
    from gradlint.traces.op_families import RANDOM_WRITES as RANDOM_WRITES
    from gradlint.traces.op_families import REDUCTIONS as REDUCTIONS
    from gradlint.traces.op_families import RESHAPES as RESHAPES
    from gradlint.traces.op_families import SAME_VALUES as SAME_VALUES
    from gradlint.traces.op_families import SELECTIONS as SELECTIONS
    from gradlint.traces.op_families import SIGMOIDS as SIGMOIDS
    from gradlint.traces.op_families import SOFTMAX as SOFTMAX
    from gradlint.traces.op_families import SUBTRACT as SUBTRACT
    from gradlint.traces.op_families import SUMS as SUMS
    from gradlint.traces.op_families import VALUE_FREE as VALUE_FREE
    from gradlint.traces.sites import is_project as is_project
    from gradlint.traces.trace import GradientSizes as GradientSizes
    from gradlint.traces.trace import Stop as Stop
    from gradlint.traces.trace import UnregisteredTensor as UnregisteredTensor
    from gradlint.traces.training import Backward as Backward
    from gradlint.traces.training import Clear as Clear
    from gradlint.traces.training import Content as Content
    from gradlint.traces.training import Schedule as Schedule
    from gradlint.traces.training import Spoiling as Spoiling
else:
    __getattr__, __dir__ = lazy_names(__name__)
