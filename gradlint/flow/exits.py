"""Parameters that the loss seems not to depend on, although their values left torch before it was computed."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from typing import NamedTuple

from gradlint.flow.facts import FlowFacts
from gradlint.location import node_location
from gradlint.source.lookup import name_parts, syntax_tree
from gradlint.traces.dataflow import indices, union
from gradlint.traces.ids import OpIndex, ParameterIndex
from gradlint.traces.op_families import ARRAYS_OUT, DECISIONS, NUMBERS_OUT
from gradlint.traces.ops import KIND_EXTRACT, Op
from gradlint.traces.trace import Trace

_OF_NUMBERS = frozenset("abs bool float int max min round math.isfinite math.isinf math.isnan".split())
"""Functions of numbers that keep nothing of their arguments."""

Groups = dict[tuple[OpIndex, ...], tuple[ParameterIndex, ...]]
"""Ops by which values left torch (-1: unknown) → indices of the unused parameters whose values left by them."""


def grouped_by_exit(flow: FlowFacts) -> Groups:
    """Return the unused parameters whose values left torch or the recording, by their exits.

    Parameters that left by the same exits share their fate: one experiment serves them all.
    """
    if not flow.trace.roots:
        return {}  # there is no loss to move
    groups: dict[tuple[OpIndex, ...], list[ParameterIndex]] = {}
    for index, numbers in _exits(flow).items():
        groups.setdefault(tuple(numbers), []).append(index)
    return {exits: tuple(members) for exits, members in groups.items()}


def apply_evidence(flow: FlowFacts, groups: Groups) -> None:
    """Classify the parameters of each group by the evidence; they are starved if the loss moves."""
    for exits, members in groups.items():
        effect = flow.evidence.of_group(members)
        if effect.outcome == "reaches":
            flow.starved.update(members)
            flow.unused.difference_update(members)
            whole = [n for n in exits if flow.trace.ops[n].name in ARRAYS_OUT]
            flow.proven.update(dict.fromkeys(members, (whole or list(exits))[0]))
        elif effect.outcome == "steers":
            flow.steering.update(members)
        elif effect.outcome == "unknown" and not _are_dropped(flow, exits):
            flow.why_undecided = effect.reason
            flow.undecided.update(members)
            flow.unused.difference_update(members)


def _are_dropped(flow: FlowFacts, exits: tuple[OpIndex, ...]) -> bool:
    """Return True if the last result of each parameter is dropped, and no value left torch."""
    return all(n >= 0 and flow.trace.ops[n].kind != KIND_EXTRACT for n in exits) and not flow.trace.unrecorded


def _is_in_a_condition(trace: Trace, op: Op) -> bool:
    """Return True if a number leaves torch in the condition of a branch: ``if t.item() > 0``."""
    frame = trace.frame(op.site)
    if frame is None:
        return False
    calls = _in_conditions(syntax_tree(frame.path))
    return any(node_location(frame.path, node) == frame.location for node in calls)


@functools.lru_cache(maxsize=64)
def _in_conditions(tree: ast.Module) -> tuple[ast.Call, ...]:
    """Return the calls of a file whose results only the conditions of branches read."""
    branches = (ast.If, ast.While, ast.IfExp, ast.Assert)
    calls, names = _tested([node.test for node in ast.walk(tree) if isinstance(node, branches)])
    scopes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    named = [part for scope in scopes for part in _named_numbers(scope)]
    while found := [part for part in named if part.reads <= names]:
        named = [part for part in named if part not in found]
        more, inner = _tested([part.value for part in found])
        calls += more
        names |= inner
    return tuple(calls)


class _NamedNumber(NamedTuple):
    """A value that is given a name in a function."""

    value: ast.expr
    reads: frozenset[ast.expr]
    """All places where the function reads the name."""


def _named_numbers(scope: ast.AST) -> Iterator[_NamedNumber]:
    reads: dict[str, set[ast.expr]] = {}
    values: list[tuple[str, ast.expr]] = []
    for node in ast.walk(scope):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                reads.setdefault(name, set()).add(node)
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
            ):
                values.append((name, value))
            case ast.Global(names=outer) | ast.Nonlocal(names=outer):  # read elsewhere too
                for name in outer:
                    reads.setdefault(name, set()).add(ast.Name(name))
    return (_NamedNumber(value, frozenset(reads[name])) for name, value in values if name in reads)


def _tested(expressions: list[ast.expr]) -> tuple[list[ast.Call], set[ast.expr]]:
    """Return the calls and the names whose values some conditions compare or test."""
    pending = list(expressions)
    calls: list[ast.Call] = []
    names: set[ast.expr] = set()
    for test in pending:
        match test:
            case ast.Compare():
                pending += [test.left, *test.comparators]
            case ast.BoolOp():
                pending += test.values
            case ast.UnaryOp():
                pending.append(test.operand)
            case ast.BinOp():
                pending += [test.left, test.right]
            case ast.Call():
                calls.append(test)
                if ".".join(name_parts(test.func)) in _OF_NUMBERS:
                    pending += test.args
            case ast.Name():
                names.add(test)
    return calls, names


def _exits(flow: FlowFacts) -> dict[ParameterIndex, list[OpIndex]]:
    """Return unused parameter → numbers of the ops by which its value left torch; -1 if unknown."""
    trace = flow.trace
    exits: dict[ParameterIndex, list[OpIndex]] = {}
    steering = 0
    for number in range(trace.forward_start, len(trace.ops)):
        op = trace.ops[number]
        if op.kind != KIND_EXTRACT:
            continue
        depends = union(flow.masks.data, op.inputs)
        if op.name in DECISIONS or (depends and op.name in NUMBERS_OUT and _is_in_a_condition(trace, op)):
            steering |= depends
            continue
        for index in indices(depends):
            if index in flow.unused:
                exits.setdefault(index, []).append(OpIndex(number))
    flow.steering = set(indices(steering)) & flow.unused - set(exits)
    for index in flow.unused - set(exits):
        lost = flow.lost_at.get(index, OpIndex(-1))
        if not steering >> index & 1 and (lost >= 0 or trace.unrecorded):
            exits[index] = [lost]
    return exits
