"""Executes recorded graphs node by node and compares every value with the recorded one, bit by bit.

``python tests/kit/replay.py [NAME ...]`` does so for all stock models and all awkward ones, or for those named, and
prints the figures by kind. A recording is executed from copies of the tensors that were there before it (parameters,
buffers, inputs, tensors of the user's own) and under its random seed. A graph with a part that ran outside of torch's
Python functions cannot be executed: such a part is named.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import table
import torch
import torch.fx
from torch import Tensor

from gradlint.api.fx import _opaque, fx_graph
from gradlint.engine.check import record_made
from gradlint.engine.options import Options
from gradlint.recorder.calls.values import Tensors, is_wrapped
from gradlint.recorder.user_code import seed
from gradlint.restore.tensors import same_values
from gradlint.traces.ids import ValueId
from gradlint.traces.op_families import ALLOCATIONS
from gradlint.traces.ops import TENSOR, Op
from gradlint.traces.trace import Trace

SAME = "bit-equal"


EXPLAINED = "not executable"
"""A result that begins so names the part that ran outside of torch's Python functions."""


class Unexecutable(Exception):
    """The name of a part that was recorded from outside."""


@dataclass
class Seen:
    """Copies of the tensors of a recording, by value."""

    copies: dict[ValueId, Tensor]
    wrapped: set[ValueId]
    """Values inside of torch.func's transforms."""


@contextlib.contextmanager
def copying() -> Iterator[Seen]:
    """Copy each tensor when it gets a value."""
    seen = Seen({}, set())
    add, renew = Tensors.add, Tensors._renew

    def copy(tensor: Tensor, value: ValueId) -> ValueId:
        if is_wrapped(tensor):
            seen.wrapped.add(value)
            return value
        with torch._C.DisableTorchFunction(), torch.no_grad(), contextlib.suppress(Exception):
            seen.copies[value] = tensor.detach().clone()
        return value

    with (
        mock.patch.object(Tensors, "add", lambda self, tensor, producer: copy(tensor, add(self, tensor, producer))),
        mock.patch.object(Tensors, "_renew", lambda self, t, entry, number: copy(t, renew(self, t, entry, number))),
    ):
        yield seen


def executed(trace: Trace, seen: Seen) -> str:
    """Execute a recording; return SAME, the first difference, or what cannot be executed."""
    environment: dict[torch.fx.Node, Any] = {}
    inputs = iter(trace.inputs)
    undefined: set[int] = set()  # memory that was allocated: parts of it may be filled later, or never
    seed()
    for node in fx_graph(trace).nodes:
        match node.op:
            case "placeholder":
                environment[node] = leaf(trace, seen, next(inputs))
            case "get_attr":
                value = node.meta["value"]
                if value not in seen.copies:
                    return f"{EXPLAINED}: a tensor without values ({node.target})"
                environment[node] = leaf(trace, seen, value)
            case "call_function":
                try:
                    environment[node] = _run(node, environment, trace, seen)
                except Unexecutable as part:
                    return f"{EXPLAINED}: {part}"
                except Exception as error:
                    return f"{node.meta['op'].name} raised {type(error).__name__}: {str(error).splitlines()[0]}"
                value = node.meta.get("value")
                op = node.meta["op"]
                result = environment[node]
                if isinstance(result, Tensor) and (op.name in ALLOCATIONS or memory(result) in undefined):
                    undefined.add(memory(result))
                    if value in seen.copies and seen.copies[value].shape != result.shape:
                        return f"{EXPLAINED}: memory that was filled from outside"
                elif value in seen.copies and not same(result, seen.copies[value]):
                    return f"{op.name} gives other values"
    return SAME


def memory(tensor: Tensor) -> int:
    """Return the identity of a tensor's memory."""
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided and not tensor.is_nested else id(tensor)


def leaf(trace: Trace, seen: Seen, value: ValueId) -> Tensor:
    """Return a copy of a tensor that no recorded op made."""
    tensor = seen.copies[value].clone()
    return tensor.requires_grad_() if trace.values[value].requires_grad and tensor.is_floating_point() else tensor


def _run(node: torch.fx.Node, environment: dict[torch.fx.Node, Any], trace: Trace, seen: Seen) -> Any:
    op: Op = node.meta["op"]
    if not seen.wrapped.isdisjoint(op.inputs) or not seen.wrapped.isdisjoint(op.outputs):
        raise Unexecutable("a transform of torch.func")
    if node.target is _opaque:
        raise Unexecutable(f"{op.name} from outside")
    if _has_unrecorded((op.args, op.kwargs)):
        raise Unexecutable("an argument that is no plain data")
    args, kwargs = torch.fx.map_arg((node.args, node.kwargs), environment.__getitem__)
    wanted = seen.copies.get(op.outputs[0]) if len(op.outputs) == 1 else None
    random_state = torch.get_rng_state()
    with torch.set_grad_enabled(node.meta["grad_mode"]):
        failure: RuntimeError | None = None
        try:
            result = node.target(*args, **kwargs)
        except RuntimeError as error:
            failure = error
        if wanted is None and failure is not None:
            raise failure
        if wanted is not None and (failure or (isinstance(result, Tensor) and result.dtype != wanted.dtype)):
            torch.set_rng_state(
                random_state
            )  # which ops ran under autocast is not recorded: the type of the result shows it
            half = wanted.dtype if wanted.dtype.itemsize == 2 else torch.bfloat16
            with torch.autocast("cpu", half):
                result = node.target(*args, **kwargs)
    return result


def _has_unrecorded(argument: Any) -> bool:
    """Return True if a part of an argument is recorded by the name of its type alone."""
    if isinstance(argument, dict):
        return any(map(_has_unrecorded, argument.values()))
    if isinstance(argument, list | tuple):
        return any(map(_has_unrecorded, argument))
    if isinstance(argument, slice):
        return TENSOR in (argument.start, argument.stop, argument.step)
    return isinstance(argument, str) and argument.startswith("<")


def same(left: Any, right: Tensor) -> bool:
    """Return True if two tensors have equal bits."""
    if not isinstance(left, Tensor):
        return True
    left = left.detach()
    if left.layout != right.layout or left.is_nested or left.is_meta:
        return left.layout == right.layout and left.is_meta == right.is_meta
    return same_values(*(t.to_dense() if t.layout != torch.strided else t for t in (left, right)))


# -- what is executed -------------------------------------------------------------------------------------------------


def of_setup(build: Callable[[], Any]) -> str:
    """Record what a function builds, and execute the recording."""
    with warnings.catch_warnings(), copying() as seen:
        warnings.simplefilter("ignore")
        with record_made(build, Options()) as recorded:
            trace = recorded.trace
        return executed(trace, seen)


def awkward() -> dict[str, Callable[[], Any]]:
    """Return name → build function of the awkward models."""
    paths = sorted((Path(__file__).parents[1] / "awkward").glob("*.py"))
    return {f"{path.stem}:{case.name}": case.load() for path in paths for case in table.builders(path, "case_")}


def stock_models() -> dict[str, Callable[[], Any]]:
    """Return name → build function of the stock models that run."""
    import stock

    ran = json.loads(stock.SNAPSHOT.read_text(encoding="utf-8"))["ran"]
    return {name: stock.builder(name, kind, level) for name, (kind, level, _) in ran.items()}


def main() -> None:
    """Execute recordings and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="models; all if none is named")
    parser.add_argument("--kind", choices=("awkward", "stock"), help="only these")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {"awkward": awkward, "stock": stock_models}
    failed = False
    for kind in [options.kind] if options.kind else kinds:
        began = time.monotonic()
        results: collections.Counter[str] = collections.Counter()
        for name, build in kinds[kind]().items():
            if options.names and name not in options.names:
                continue
            try:
                result = of_setup(build)
            except Exception as error:
                result = f"not recorded: {type(error).__name__}: {str(error).splitlines()[0]}"
            results[result if result == SAME or result.startswith(EXPLAINED) else "different"] += 1
            if result != SAME:
                print(f"{name}: {result}", file=sys.stderr, flush=True)
        failed |= bool(results["different"])
        print(f"{kind}: {sum(results.values())} models in {time.monotonic() - began:.0f} s: ", end="")
        print(", ".join(f"{count} {result}" for result, count in results.most_common()))
    sys.exit(failed)


if __name__ == "__main__":
    main()
