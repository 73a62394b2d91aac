"""The kind of cut at an op's output, and the line to report for it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from gradlint.location import Location
from gradlint.source.lookup import decorator_location, definition_location
from gradlint.traces.events import GradModeOff
from gradlint.traces.ids import EventIndex, ParameterIndex, SiteId, ValueId
from gradlint.traces.op_families import DETACHED_VALUES, DETACHING, ROUNDTRIPS, TENSOR_MAKERS
from gradlint.traces.ops import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_ALIAS,
    KIND_EXTRACT,
    KIND_OPAQUE,
    KIND_WRITE,
    CustomFunction,
    Op,
)
from gradlint.traces.sites import is_project
from gradlint.traces.trace import Parameter, Trace

_VIEWS = 4
"""Number of calls that are followed back from a write to the one that left autograd."""


class CutKind(enum.Enum):
    """The end of gradient at a cut: a clause with the name of the op or switch."""

    DETACH = "{name}() cuts the gradient path"
    NO_GRAD = "{name} cuts the gradient path"
    ROUNDTRIP = "{name} takes the value out of autograd"
    NONDIFFERENTIABLE = "{name} has no gradient"
    GRADIENT = "without create_graph=True, the result of autograd.grad is constant"
    FUNCTION = "the backward of {name} returns no gradient"
    CHECKPOINT = "no input of the reentrant checkpoint requires grad"
    FROZEN = "requires_grad is False where {name} reads it"
    UNSEEN = "no gradient returns through {name}"


@dataclass
class Cut:
    """A place where gradient stops and data goes on."""

    kind: CutKind
    name: str
    """The op (``argmax``, ``data``, ``round``) or the switch (``no_grad``, ``inference_mode``)."""
    location: Location | None
    """The line to report."""
    site: SiteId
    """The call chain of its first op; for a region, of the switch."""
    op: int
    """Number of its first op."""
    starved: list[Parameter]
    """The parameters whose gradient ends here first."""
    later: list[Location] = field(default_factory=list)
    """Further places on the way to the loss that let no gradient pass, where this one alone does not explain it."""
    zero: bool = False
    """True if gradient passes but is zero everywhere."""
    parameters_inside: list[Parameter] = field(default_factory=list)
    """The parameters used inside the grad-mode region of a NO_GRAD cut that starves parameters."""
    returned: Location | None = None
    """Location where the value comes back into torch, for a ROUNDTRIP."""
    project: bool = True
    """True if the place is the user's own code."""
    defined: Location | None = None
    """Location of the backward of the custom Function, for a FUNCTION."""
    again: list[SiteId] = field(default_factory=list)
    """Further call chains through which the same line ran."""
    relabelled: int | None = None
    """Number of the op that sets requires_grad after the cut, on every path from there to the loss."""
    outputs: list[ValueId] = field(default_factory=list)
    """The values without gradient that come out of it."""

    @property
    def clause(self) -> str:
        """Return how it ends the gradient, as a clause: ``detach() cuts the gradient path``."""
        if self.zero:
            return f"the gradient of {self.name} is zero everywhere"
        return self.kind.value.format(name=self.name)


def place(trace: Trace, number: int, output: ValueId, leaving: int | None = None) -> Cut:
    """Return the cut at an op's output: its kind and the line to report."""
    op = trace.ops[number]
    if op.region not in (GRAD_ON, IN_FUNCTION):
        return _region_cut(trace, number, trace.region(op.region))
    if leaving is not None and (op.kind == KIND_EXTRACT or op.name in DETACHING or output < 0):
        # ``x.detach().numpy()``: what matters is that the value left torch
        op = trace.ops[leaving]
        cut = _op_cut(trace, CutKind.ROUNDTRIP, leaving, op)
        if op.kind == KIND_EXTRACT:
            cut.returned = _returned(trace, leaving)
        else:
            cut.name = "unseen"
        return cut
    return place_of_op(trace, number, output)


def place_of_op(trace: Trace, number: int, output: ValueId) -> Cut:
    """Return the cut that an op itself makes at an output, whatever region it runs in."""
    op = trace.ops[number]
    if op.kind == KIND_ALIAS and len(op.inputs) == 2:
        writing = trace.values[op.inputs[1]].producer
        if writing >= 0 and trace.ops[writing].kind == KIND_WRITE:  # the memory was written to by another tensor
            cut = _op_cut(trace, CutKind.ROUNDTRIP, writing, trace.ops[writing])
            cut.name = written_through(trace, trace.ops[writing])
            return cut
    if op.kind == KIND_OPAQUE:
        kind = CutKind.FUNCTION
        if op.name == "CheckpointFunction":
            kind = CutKind.CHECKPOINT
        elif output >= 0 and not trace.values[output].requires_grad:
            kind = CutKind.NONDIFFERENTIABLE
    elif op.name in DETACHING:
        kind = CutKind.DETACH
    elif op.name in ROUNDTRIPS or op.kind in (KIND_ALIAS, KIND_EXTRACT):
        kind = CutKind.ROUNDTRIP
    elif op.name == "grad":
        kind = CutKind.GRADIENT
    else:
        kind = CutKind.NONDIFFERENTIABLE
    cut = _op_cut(trace, kind, number, op)
    if op.kind == KIND_EXTRACT:
        cut.returned = _returned(trace, number)
    cut.zero = kind is not CutKind.FUNCTION and output >= 0 and trace.values[output].requires_grad
    return cut


def written_through(trace: Trace, writer: Op) -> str:
    """Return the name of a write after the call that reached the memory: ``data.copy_``."""
    op: Op | None = writer
    for _ in range(_VIEWS):
        op = trace.made_by(op.inputs[0]) if op is not None and op.inputs else None
        if op is not None and op.name in DETACHED_VALUES:
            return f"{op.name}{'()' if op.name in DETACHING else ''}.{writer.name}"
    return writer.name


def _op_cut(trace: Trace, kind: CutKind, number: int, op: Op) -> Cut:
    frame = trace.frame(op.site)
    where = frame.location if frame else None
    cut = Cut(kind, op.name, where, op.site, number, [], project=frame is not None and frame.project)
    if kind is CutKind.FUNCTION and isinstance(op.func, CustomFunction) and op.func.backward is not None:
        cut.defined = definition_location(op.func.backward)
    return cut


def _region_cut(trace: Trace, number: int, event: GradModeOff) -> Cut:
    code = event.library or event.decorated
    if code is not None and (code is event.library or not is_project(code.co_filename)):
        # torch.distributions' sample(), say: the user's call is to blame
        if code.co_filename.replace("\\", "/").rpartition("/torch/")[1]:
            frame = trace.frame(event.site)
            return Cut(
                CutKind.NONDIFFERENTIABLE, code.co_name, frame.location if frame else None, event.site, number, [],
                project=frame is not None and frame.project,
            )  # fmt: skip
    where = region_location(trace, event)
    frame = trace.frame(event.site)
    project = is_project(where.path) if where else frame is not None and frame.project
    return Cut(CutKind.NO_GRAD, event.how, where, event.site, number, [], project=project)


def region_location(trace: Trace, event: GradModeOff) -> Location | None:
    """Return the ``with`` or decorator line that switched grad mode off."""
    decorated = event.decorated
    if decorated is not None and is_project(decorated.co_filename):
        return decorator_location(decorated, frozenset((event.how, "no_grad", "inference_mode", "set_grad_enabled")))
    return trace.location(event.site)


def parameters_by_region(trace: Trace) -> dict[Location | None, list[Parameter]]:
    """Return the line that switched grad mode off → the parameters used there, in all runs."""
    lines: dict[EventIndex, Location | None] = {}
    used: dict[Location | None, set[ParameterIndex]] = {}
    for op in trace.ops[trace.forward_start :]:
        indices = {trace.owners[v] for v in op.inputs if v in trace.owners} if op.region >= 0 else ()
        if indices:
            if op.region not in lines:
                lines[op.region] = region_location(trace, trace.region(op.region))
            used.setdefault(lines[op.region], set()).update(indices)
    return {line: [trace.parameters[i] for i in sorted(indices)] for line, indices in used.items()}


def _returned(trace: Trace, leaving: int) -> Location | None:
    """Return the line of the first tensor created after a value left torch."""
    for op in trace.ops[leaving + 1 :]:
        if op.name in TENSOR_MAKERS:
            return trace.location(op.site)
    return None
