"""A recording as a torch.fx graph."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.fx

from gradlint.traces.ids import ValueId
from gradlint.traces.ops import GRAD_ON, IN_FUNCTION, KIND_ALIAS, KIND_OPAQUE, TENSOR, Op, TorchConstant
from gradlint.traces.trace import Trace


def fx_graph(trace: Trace) -> torch.fx.Graph:
    """Return the forward and the loss of a trace as nodes of a graph, in the order of execution.

    Each node's ``meta`` holds ``op`` (the Op), ``module`` (fqn), ``location``, ``grad_mode`` (bool),
    ``requires_grad_in`` and ``requires_grad_out`` (tuples of bool). The graph is for reading and analysis: executing it
    is no substitute for the recording.

    Inputs are placeholders; parameters, buffers and tensors from elsewhere are ``get_attr`` nodes (the latter named
    ``constant_N``). An op with several results has a ``getitem`` node for each that is used.
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
        node = _node(graph, op, inputs)
        node.meta.update(
            op=op,
            number=number,
            module=module.fqn if (module := trace.module_of(op)) is not None else "",
            location=trace.location(op.site),
            grad_mode=op.region in (GRAD_ON, IN_FUNCTION),
            requires_grad_in=tuple(trace.values[v].requires_grad for v in op.inputs),
            requires_grad_out=tuple(trace.values[v].requires_grad for v in op.outputs),
        )
        if len(op.outputs) == 1:
            nodes[op.outputs[0]] = node
            node.meta.update(_value_meta(trace, op.outputs[0]))
        else:
            for index, value in enumerate(op.outputs):
                part = graph.call_function(_getitem, (node, index))
                part.meta.update(node.meta)
                part.meta.update(_value_meta(trace, value))
                nodes[value] = part
    graph.output(tuple(node_of(v) for v in trace.roots))
    return graph


def _node(graph: torch.fx.Graph, op: Op, inputs: list[torch.fx.Node]) -> torch.fx.Node:
    """Return a node for an op; one that cannot be called again becomes a call of `_opaque`."""
    function = _callable(op.func) if isinstance(op.func, str) and op.kind not in (KIND_ALIAS, KIND_OPAQUE) else None
    if function is None or (not op.args and not op.kwargs and inputs):
        return graph.call_function(_opaque, (op.name, *inputs), name=_identifier(op.name))
    waiting = iter(inputs)
    args = tuple(_filled(a, waiting) for a in op.args)
    kwargs = {k: _filled(v, waiting) for k, v in (op.kwargs or {}).items()}
    return graph.create_node("call_function", function, args, kwargs, name=_identifier(op.name))


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


_NAMESPACES = (torch.nn.functional, torch, torch.Tensor, torch.linalg, torch.fft, torch.special)


@functools.cache
def _callable(name: str) -> Any:
    """Return torch's function of a name, or one that gets or sets the attribute of this name."""
    function = next((f for space in _NAMESPACES if (f := getattr(space, name, None)) is not None), None)
    return function if function is None or callable(function) else _attribute(name)


def _attribute(name: str) -> Any:
    def attribute(tensor: Any, *value: Any) -> Any:
        return setattr(tensor, name, *value) if value else getattr(tensor, name)

    attribute.__name__ = attribute.__qualname__ = name
    return attribute


def _getitem(results: Any, index: int) -> Any:
    return results[index]


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
