"""Parameters whose only gradient has the factor 0, and the cuts beside it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint.flow.cut import Cut
from gradlint.flow.facts import FlowFacts
from gradlint.flow.loss_terms import scalar_terms
from gradlint.flow.summands import Summand
from gradlint.location import node_location
from gradlint.source.lookup import syntax_tree
from gradlint.traces.dataflow import indices, mask_of
from gradlint.traces.op_families import MULTIPLY
from gradlint.traces.ops import Op
from gradlint.traces.trace import Parameter


def cuts_beside_zero_factors(flow: FlowFacts) -> Iterator[tuple[Cut, list[Parameter]]]:
    """Yield the cuts of parameters that gradient reaches only through terms with the factor 0.

    The factor is a number written in the source: a weight that a schedule raises is none. Silent where no other term
    depends on the parameters: such a term is there so that each parameter has a gradient.
    """
    zero = others = 0
    counted: list[Summand] = []
    for live, terms in scalar_terms(flow):
        counted += [t for t in terms if t.factor != 0 or t.weights]
        for term in live:
            if term.factor == 0 and not term.weights:
                zero |= flow.masks.live.get(term.value, 0)
            else:
                others |= flow.masks.live.get(term.value, 0)
    lost = zero & ~others & mask_of(flow.judged & flow.reached)
    if not lost or not _are_written(flow):
        return
    for term in counted:
        mask = flow.masks.data.get(term.value, 0) & lost
        for cut, behind in flow.first_cuts(term.value, mask):
            yield cut, flow.by_index(indices(behind))


def _are_written(flow: FlowFacts) -> bool:
    """Return True if each product with 0 on the way to the loss has a written 0."""
    trace = flow.trace
    products = [
        op
        for op in trace.ops[trace.forward_start :]
        if op.name in MULTIPLY and any(isinstance(a, int | float) and a == 0 for a in op.args)
        if any(o in flow.on_path and trace.values[o].requires_grad for o in op.outputs)
    ]
    return bool(products) and all(_is_written(flow, op) for op in products)


def _is_written(flow: FlowFacts, op: Op) -> bool:
    frame = flow.trace.frame(op.site)
    if frame is None:
        return False
    line = frame.location.line
    products = [
        node
        for node in ast.walk(syntax_tree(frame.path))
        if isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Mult)
        and node.lineno <= line <= (node.end_lineno or line)
    ]
    at = [node for node in products if node_location(frame.path, node) == frame.location] or products
    return bool(at) and all(
        any(isinstance(side, ast.Constant) and side.value == 0 for side in (node.left, node.right)) for node in at
    )
