"""A recording as a torch.fx graph."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from typing import Any

import torch
import torch.autograd
import torch.fx
import torch.nn.init
import torch.nn.utils.rnn

from gradlint.traces.ids import ValueId
from gradlint.traces.op_families import PAIRWISE, SPLITS
from gradlint.traces.ops import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_ALIAS,
    KIND_OPAQUE,
    KIND_WRITE,
    TENSOR,
    MethodName,
    Op,
    TorchConstant,
)
from gradlint.traces.trace import Trace


def fx_graph(trace: Trace) -> torch.fx.Graph:
    """Return the forward and the loss of a trace as nodes of a graph, in the order of execution.

    Each node's ``meta`` holds ``op`` (the Op), ``module`` (fqn), ``location``, ``grad_mode`` (bool),
    ``requires_grad_in`` and ``requires_grad_out`` (tuples of bool). Executed under the same random state, it gives the
    recorded values again, but for parts that ran outside of torch's Python functions (`_opaque`).

    Inputs are placeholders; parameters, buffers and tensors from elsewhere are ``get_attr`` nodes (the latter named
    ``constant_N``). An op with several results has a node for each of them.
    """
    graph = torch.fx.Graph()
    nodes: dict[ValueId, torch.fx.Node] = {}
    for value, name in trace.inputs.items():
        nodes[value] = graph.placeholder(f"input_{_identifier(name)}")

    def node_of(value: ValueId) -> torch.fx.Node:
        if value not in nodes:
            owner = trace.owners.get(value)
            if owner is not None:
                name = trace.parameters[owner].fqn
            else:
                name = trace.buffers.get(value, f"constant_{value}")
            nodes[value] = graph.create_node("get_attr", name, name=_identifier(name))
            nodes[value].meta.update(_value_meta(trace, value))
        return nodes[value]

    for number in range(trace.forward_start, len(trace.ops)):
        op = trace.ops[number]
        inputs = [node_of(v) for v in op.inputs]
        node = _node(graph, trace, op, inputs)
        node.meta.update(
            op=op,
            number=number,
            module=module.fqn if (module := trace.module_of(op)) is not None else "",
            location=trace.location(op.site),
            grad_mode=op.region in (GRAD_ON, IN_FUNCTION),
            requires_grad_in=tuple(trace.values[v].requires_grad for v in op.inputs),
            requires_grad_out=tuple(trace.values[v].requires_grad for v in op.outputs),
        )
        if len(op.outputs) == 1 and op.kind != KIND_WRITE and op.name not in _SINGLE_IN_TUPLE:
            nodes[op.outputs[0]] = node
            node.meta.update(_value_meta(trace, op.outputs[0]))
        else:
            for index, value in enumerate(op.outputs):
                part = graph.call_function(_part, (node, index))
                part.meta.update(node.meta)
                part.meta.update(_value_meta(trace, value))
                nodes[value] = part
    graph.output(tuple(node_of(v) for v in trace.roots))
    return graph


def _node(graph: torch.fx.Graph, trace: Trace, op: Op, inputs: list[torch.fx.Node]) -> torch.fx.Node:
    """Return a node for an op; one that cannot be called again becomes a call of `_opaque`."""
    name = _identifier(op.name)
    if op.name == "requires_grad_" and not op.args:
        return graph.create_node(
            "call_function", _requiring, (*inputs, trace.values[op.outputs[0]].requires_grad), name=name
        )
    if _is_in_place_of(trace, op):
        return graph.create_node("call_function", _same, tuple(inputs), name=name)
    if op.kind == KIND_OPAQUE and inputs and _was_inside(trace, op.inputs[-1]):
        return graph.create_node("call_function", _last, tuple(inputs), name=name)
    function = _callable(op.func) if isinstance(op.func, str) and op.kind not in (KIND_ALIAS, KIND_OPAQUE) else None
    if function is None or (not op.args and not op.kwargs and inputs):
        return graph.create_node("call_function", _opaque, (op.name, *inputs), name=name)
    if op.kind == KIND_WRITE and op.outputs:
        function = _writing(function)
    waiting = iter(inputs)
    args = tuple(_filled(a, waiting) for a in op.args)
    kwargs = {k: _filled(v, waiting) for k, v in (op.kwargs or {}).items()}
    return graph.create_node("call_function", function, args, kwargs, name=name)


def _is_in_place_of(trace: Trace, op: Op) -> bool:
    """Return True if the result of an op is its first input: the same memory, under a new value."""
    if op.name in _RENEWED and not op.args and op.inputs:
        return True
    old, new = op.inputs[:1], op.outputs[:1]
    return op.kind == KIND_ALIAS and bool(old and new) and trace.values[old[0]].shape == trace.values[new[0]].shape


def _was_inside(trace: Trace, value: ValueId) -> bool:
    """Return True if a value was computed inside a custom Function, whose ops are recorded."""
    producer = trace.values[value].producer
    return producer >= 0 and trace.ops[producer].region == IN_FUNCTION


def _filled(template: Any, waiting: Any) -> Any:
    if template is TENSOR:
        return next(waiting)
    if isinstance(template, TorchConstant):
        return torch.device(template.name) if template.kind == "device" else getattr(torch, template.name)
    if isinstance(template, tuple):
        return tuple(_filled(t, waiting) for t in template)
    if isinstance(template, list):
        return [_filled(t, waiting) for t in template]
    if isinstance(template, dict):
        return {k: _filled(v, waiting) for k, v in template.items()}
    return template


_RENEWED = frozenset("alias Variable Parameter".split())
"""Ops without recorded arguments whose result has the memory of their first input."""

_SINGLE_IN_TUPLE = SPLITS | PAIRWISE | frozenset("multi_head_attention_forward grad unbind where nonzero".split())
"""Functions that may return a single tensor in a tuple."""

_NAMESPACES = (
    torch.nn.functional,
    torch,
    torch.Tensor,
    torch.autograd,
    *(getattr(torch._C, name) for name in ("_nn", "_linalg", "_fft", "_special", "_sparse") if hasattr(torch._C, name)),
    torch.nn.utils.rnn,
    torch.nn.init,
)


@functools.lru_cache(maxsize=None, typed=True)
def _callable(name: str) -> Any:
    """Return torch's function or method of a name, or one for an attribute of it."""
    is_method = isinstance(name, MethodName) or name.startswith("__")
    spaces = (torch.Tensor,) if is_method else _NAMESPACES
    found = [f for space in spaces if (f := getattr(space, name, None)) is not None]
    functions = [f for f in dict.fromkeys(found) if callable(f)]
    if len(functions) > 1:
        return _one_of(name, functions)
    return functions[0] if functions else _attribute(name) if found or hasattr(torch.Tensor, name) else None


def _one_of(name: str, functions: Sequence[Any]) -> Any:
    """Return a function that calls the first of several of one name that takes the arguments."""

    def function(*args: Any, **kwargs: Any) -> Any:
        for candidate in functions[:-1]:
            with contextlib.suppress(TypeError):
                return candidate(*args, **kwargs)
        return functions[-1](*args, **kwargs)

    function.__name__ = function.__qualname__ = name
    return function


def _attribute(name: str) -> Any:
    def attribute(tensor: Any, *value: Any) -> Any:
        return setattr(tensor, name, *value) if value else getattr(tensor, name)

    attribute.__name__ = attribute.__qualname__ = name
    return attribute


@functools.cache
def _writing(function: Any) -> Any:
    """Return a function that returns what it wrote to, then its other results."""

    @functools.wraps(function)
    def writing(*args: Any, **kwargs: Any) -> Any:
        results = _tensors(function(*args, **kwargs))
        out = kwargs.get("out")
        written = _tensors(out if out is not None else args[0] if args else next(iter(kwargs.values()), None))
        return (*written, *(r for r in results if not any(r is w for w in written)))

    return writing


def _tensors(thing: Any) -> list[Any]:
    """Return the tensors in nested lists, tuples and mappings, in order."""
    if isinstance(thing, torch.Tensor):
        return [thing]
    parts = thing.values() if isinstance(thing, dict) else thing if isinstance(thing, list | tuple) else ()
    return [t for part in parts for t in _tensors(part)]


def _part(results: Any, index: int) -> Any:
    return _tensors(results)[index]


def _same(tensor: Any, *_: Any) -> Any:
    return tensor


def _requiring(tensor: Any, wanted: bool) -> Any:
    return tensor.requires_grad_(wanted) if tensor.is_leaf else tensor


def _last(*tensors: Any) -> Any:
    return tensors[-1]


def _opaque(name: str, *inputs: Any) -> Any:
    """Refuse to run a part that was not recorded op by op."""
    raise RuntimeError(f"{name} was recorded from outside: a graph of a recording cannot run it")


def _value_meta(trace: Trace, value: ValueId) -> dict[str, Any]:
    entry = trace.values[value]
    return {
        "shape": entry.shape,
        "dtype": float if entry.dtype == "float" else getattr(torch, entry.dtype),
        "requires_grad": entry.requires_grad,
        "value": value,
    }


def _identifier(name: str) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "_" for c in name)
    return text if text[:1].isalpha() or text[:1] == "_" else f"_{text}"
