"""Parameters whose gradient was zero in every recorded step, where the record shows that it stays zero.

A gradient may be zero in the first steps by chance: a layer that starts at zero, dead units, a loss that is met. Only
two causes are certain: layers that are zero and keep each other at zero, and a softmax over a single element.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import NamedTuple

from gradlint.flow.facts import FlowFacts
from gradlint.flow.siblings import same_class_siblings
from gradlint.traces.dataflow import indices, mask_of, propagate, union
from gradlint.traces.ids import OpIndex, ParameterIndex
from gradlint.traces.op_families import BIASED_LAYERS, PRODUCTS, SAME_VALUES, SOFTMAX
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter, Trace
from gradlint.traces.training import Content

_STEPS = 3
"""Number of steps in which a gradient has to be zero: what starts behind a zero gets one by then."""
_FLAT = "sign"
"""Name of an op whose gradient is zero everywhere."""


class ZeroInSteps(NamedTuple):
    """A call after which the gradient of parameters is zero and stays so."""

    op: OpIndex
    single: bool
    """True for a softmax over a single element; False for a product of two zeros."""
    parameters: list[Parameter]


def zero_in_steps(flow: FlowFacts) -> Iterator[ZeroInSteps]:
    """Yield the calls that keep the gradient of parameters at zero, in the order of execution."""
    contents = _contents(flow)
    zero = {i: rows for i, rows in contents.items() if not any(c.nonzero for c in rows)}
    if not zero or len(zero) == len(contents):
        return
    causes = {number: (True, members) for number, members in _single(flow, zero.keys()).items()}
    explained = {i for _, members in causes.values() for i in members}
    still = {i for i, rows in zero.items() if i not in explained and all(c.at_zero for c in rows)}
    causes |= {number: (False, members) for number, members in _products_of_zeros(flow, still).items()}
    for number, (single, members) in sorted(causes.items()):
        yield ZeroInSteps(number, single, flow.by_index(members))


def flat_in_steps(flow: FlowFacts) -> list[Parameter]:
    """Return the parameters whose gradient is zero in all steps, if no gradient is not."""
    training = flow.trace.training
    if training is None or any(b.spoilt for b in training.backwards):  # a hook may put zeros in place of NaN
        return []
    if any(content.nonzero for step in training.steps for content in step.content.values()):
        return []
    return flow.by_index(_contents(flow))


def _contents(flow: FlowFacts) -> dict[ParameterIndex, list[Content]]:
    """Return parameter → its state at each step, of those with a gradient in all of them."""
    trace = flow.trace
    steps = trace.training.steps if trace.training is not None else ()
    rows: dict[ParameterIndex, list[Content]] = {}
    for parameter in flow.by_index(flow.judged & flow.reached):
        found = [step.content[parameter.key] for step in steps if parameter.key in step.content]
        if len(found) >= _STEPS and all(c.grad and c.trainable and c.lr != 0 for c in found):
            rows[parameter.index] = found
    return rows


def _single(flow: FlowFacts, zero: Set[ParameterIndex]) -> dict[OpIndex, set[ParameterIndex]]:
    """Return softmax of one output → the parameters that gradient reaches by such calls alone."""
    trace = flow.trace
    numbers = {n for n in range(trace.forward_start, len(trace.ops)) if _is_over_one_output(trace, trace.ops[n])}
    if not numbers:
        return {}
    ops = [op._replace(func=_FLAT) if n in numbers else op for n, op in enumerate(trace.ops)]
    masks = propagate(ops, trace.values, trace.owners, trace.forward_start, trace.dropped)
    lost = mask_of(zero) & ~union(masks.live, trace.roots)
    found: dict[OpIndex, set[ParameterIndex]] = {}
    for number, output, mask in masks.cuts:
        if number in numbers and output in flow.on_path and mask & lost:
            found.setdefault(number, set()).update(indices(mask & lost))
    return found


def _is_over_one_output(trace: Trace, op: Op) -> bool:
    """Return True if an op is a softmax along the outputs of a layer that has a single one.

    Any other dimension of the inputs may be 1 by chance.
    """
    if op.name not in SOFTMAX or not op.inputs or not op.outputs:
        return False
    shape, dim = trace.values[op.outputs[0]].shape, op.argument(1, "dim")
    if not isinstance(dim, int) or not shape or not -len(shape) <= dim < len(shape) or shape[dim] != 1:
        return False
    made, axis = trace.made_by(op.inputs[0]), dim % len(shape)
    while made is not None and made.name in SAME_VALUES and made.inputs:
        made = trace.made_by(made.inputs[0])
    return made is not None and made.name == "linear" and axis == len(shape) - 1


def _products_of_zeros(flow: FlowFacts, still: Set[ParameterIndex]) -> dict[OpIndex, set[ParameterIndex]]:
    """Return product → the parameters that are zero on both of its sides.

    A parameter is left out where a sibling of its class gets gradient: an expert that was not chosen.
    """
    trace = flow.trace
    weights: set[ParameterIndex] = set()
    products: list[tuple[OpIndex, ParameterIndex, int]] = []
    for number in range(trace.forward_start, len(trace.ops) if len(still) > 1 else 0):
        op = trace.ops[number]
        if op.name not in PRODUCTS or not flow.on_path.intersection(op.outputs):
            continue
        own = {i for v in op.inputs if (i := trace.owners.get(v)) is not None}
        bias = op.tensor(2, "bias") if op.name in BIASED_LAYERS else None
        if not own or not own <= still:
            continue
        factors = {i for v in op.inputs if v != bias and (i := trace.owners.get(v)) is not None}
        weights |= factors
        others = union(flow.masks.data, (v for v in op.inputs if v not in trace.owners))
        products += [(OpIndex(number), i, others) for i in factors]
    found: dict[OpIndex, set[ParameterIndex]] = {}
    alone = {i for i in weights if not _has_live_sibling(flow, trace.parameters[i])}
    for number, index, others in products:
        before = {i for i in indices(others & mask_of(alone)) if i != index}
        if index in alone and before:
            found.setdefault(number, set()).update(before, {index})
    return found


def _has_live_sibling(flow: FlowFacts, parameter: Parameter) -> bool:
    """Return True if a module of the same class beside one around a parameter got gradient."""
    training = flow.trace.training
    steps = training.steps if training is not None else ()
    alike = {p.key for twin in same_class_siblings(flow.trace, parameter) for p in twin}
    return any(content.nonzero for step in steps for key, content in step.content.items() if key in alike)
