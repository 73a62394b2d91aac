"""One recorded torch call, the values that it reads and makes, and the module call that it runs in."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from gradlint.location import Code
from gradlint.traces.ids import CallIndex, EventIndex, ModuleIndex, OpIndex, SiteId, ValueId

GRAD_ON = EventIndex(-1)
"""`Op.region` of an op that ran with grad mode on."""
IN_FUNCTION = EventIndex(-2)
"""`Op.region` of an op inside the forward of a custom autograd.Function, where grad mode is off by design."""


class CustomFunction(NamedTuple):
    """A class derived from autograd.Function."""

    name: str
    number: int
    """Number within the recording: two classes may have one name."""
    backward: Code | None
    """Its ``backward``; None where that is not written in Python."""


class MethodName(str):
    """The plain name of a method of tensors: a function of this name may take other arguments (``where``)."""

    __slots__ = ()


def function_name(function: Any) -> str:
    """Return the plain name of a dispatched function, method, attribute getter or class."""
    if isinstance(function, CustomFunction):
        return function.name
    name = getattr(function, "__name__", None) or type(function).__name__
    return str(function.__self__.__name__) if name in ("__get__", "__set__") else str(name)


class Op(NamedTuple):
    """One recorded torch call."""

    func: Any
    """Plain name of what torch dispatched (see `name`; a MethodName of a method), or a CustomFunction.

    While recording, the function itself.
    """
    site: SiteId
    """The user's call chain (`Trace.sites`)."""
    call: CallIndex
    """The module call it ran in; NO_CALL outside any."""
    region: EventIndex
    """Number of the event that switched grad mode off, or GRAD_ON or IN_FUNCTION."""
    inputs: tuple[ValueId, ...]
    """Values read, in the order of the arguments."""
    outputs: tuple[ValueId, ...]
    """Values made or written; empty where values left torch (``.item()``)."""
    args: tuple[Any, ...]
    """The positional arguments, each tensor replaced by TENSOR, each dtype and device by a TorchConstant."""
    kwargs: Mapping[str, Any] | None
    """The keyword arguments likewise; None for none."""
    kind: int = 0
    """One of the KIND_ constants."""

    @property
    def name(self) -> str:
        """The plain name: ``add_``, ``softmax``, ``data`` for an attribute, a class's name for a custom Function."""
        func = self.func
        return func if isinstance(func, str) else function_name(func)

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        """Return one argument, by position or by name; TENSOR for a tensor."""
        if position < len(self.args):
            return self.args[position]
        return self.kwargs.get(name, default) if self.kwargs else default

    def tensor(self, position: int, name: str) -> ValueId | None:
        """Return the value of one tensor argument; None if it is no tensor."""
        if self.argument(position, name) is not TENSOR:
            return None
        before: list[Any] = list(self.args[:position])
        if position >= len(self.args) and self.kwargs:
            before += [v for _, v in itertools.takewhile(lambda item: item[0] != name, self.kwargs.items())]
        number = _count(before)
        return self.inputs[number] if number < len(self.inputs) else None


class _Tensor:
    __slots__ = ()

    def __repr__(self) -> str:
        return "<tensor>"

    def __reduce__(self) -> str:
        return "TENSOR"


TENSOR = _Tensor()
"""Stands for a tensor in `Op.args`; the values are `Op.inputs`, in order."""


@dataclass(frozen=True)
class TorchConstant:
    """An argument that is one of torch's own constants."""

    kind: str
    """Name of its class: ``dtype``, ``device``, ``layout`` or ``memory_format``."""
    name: str
    """As in ``float32`` or ``cuda:0``."""


def _count(template: Any) -> int:
    """Return the number of tensors in an argument."""
    if template is TENSOR:
        return 1
    if isinstance(template, dict):
        return sum(_count(part) for part in template.values())
    return sum(_count(part) for part in template) if isinstance(template, (list, tuple)) else 0


KIND_PLAIN = 0
KIND_WRITE = 1
"""Wrote to an existing tensor: an in-place op, ``out=``, ``x[i] = y``, ``x.data = y``."""
KIND_EXTRACT = 2
"""Gave no tensor: values left torch."""
KIND_OPAQUE = 3
"""A custom autograd.Function, a scripted module, or something else whose inside was not judged op by op."""
KIND_ALIAS = 4
"""No call of torch's: a tensor was found to share memory with another (a view, a numpy buffer, a re-wrapping)."""


class Value(NamedTuple):
    """The facts about one value."""

    producer: OpIndex
    """The op that computed it; NO_OP for parameters, buffers, inputs and constants."""
    requires_grad: bool
    shape: tuple[int, ...]
    dtype: str
    """Name of its data type, as in ``float32``; ``float`` for a Python number."""

    def __reduce__(self) -> tuple[type[Value], tuple[OpIndex, bool, tuple[int, ...], str]]:
        # a recording leaves torch's own tuples in `shape`: converting each as it is recorded costs too much
        return Value, (self.producer, self.requires_grad, tuple(self.shape), self.dtype)


class ModuleCall(NamedTuple):
    """One run of a module's forward."""

    module: ModuleIndex
    parent: CallIndex
    """The module call it ran in; NO_CALL for none."""
    site: SiteId
    """Site of the call."""
    training: bool
    start: OpIndex
    """Number of ops recorded before it."""
