"""Which parameters the loss depends on, which its gradient reaches, and the cuts that explain the difference.

Computed once from a trace and shared by rules, summaries and explanations. Imports no torch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from gradlint.findings import Location
from gradlint.provenance import NEW_LEAF, Masks, ancestors, indices, propagate
from gradlint.rearrange import origin
from gradlint.sites import decorator_location, definition_location, is_project
from gradlint.trace import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_ALIAS,
    KIND_EXTRACT,
    KIND_OPAQUE,
    NO_SITE,
    Event,
    Op,
    Parameter,
    Trace,
)

if TYPE_CHECKING:
    from gradlint.terms import ConstantTerm, DroppedTerm

DETACH = "detach"
NO_GRAD = "no_grad"
ROUNDTRIP = "roundtrip"
NONDIFFERENTIABLE = "nondifferentiable"
GRADIENT = "gradient"
FUNCTION = "function"
CHECKPOINT = "checkpoint"

_DETACHES = frozenset(("detach", "detach_"))
_ROUNDTRIPS = frozenset(
    ("data", "Variable", "tensor", "as_tensor", "asarray", "new_tensor", "from_numpy", "alias", "set_", "sparse_coo_tensor")
)
_CONTROL = frozenset(("__bool__", "__contains__", "is_nonzero", "equal", "allclose", "__len__"))
"""Ways out of torch that decide what runs rather than what flows."""


@dataclass
class Cut:
    """A place where gradient stops and data goes on."""

    kind: str
    """DETACH, NO_GRAD, ROUNDTRIP, NONDIFFERENTIABLE, GRADIENT (of autograd.grad), FUNCTION or CHECKPOINT."""
    name: str
    """The op (``argmax``, ``data``, ``round``) or the switch (``no_grad``, ``inference_mode``)."""
    location: Location | None
    """The line to blame."""
    site: int
    """The call chain of its first op; for a region, of the switch."""
    op: int
    """Number of its first op."""
    starved: list[Parameter]
    """The parameters whose gradient ends here first."""
    later: list[Location] = field(default_factory=list)
    """Further cuts downstream, which would starve them just the same."""
    zero: bool = False
    """Whether gradient passes and is zero everywhere, rather than not passing at all."""
    held: list[Parameter] = field(default_factory=list)
    """The parameters used inside a grad-mode region."""
    returned: Location | None = None
    """Where the value came back into torch, for a ROUNDTRIP."""
    project: bool = True
    """Whether the place is the user's own code."""
    defined: Location | None = None
    """Where the backward of a custom Function is defined, for a FUNCTION."""
    relabelled: int | None = None
    """Number of the op that set requires_grad on what comes after, on every way from here to the loss."""


@dataclass(frozen=True)
class Relabel:
    """A computed tensor that was made to require grad after its gradient was lost (GL410)."""

    name: str
    site: int
    parameters: list[Parameter]
    """Those that data flows from to it and gradient does not return to."""
    cuts: list[Cut]
    """Where the gradient really ended; empty where the relabelling itself ended it."""


class Flow:
    """The facts about a trace.

    Attributes:
        judged: indices of the parameters that the recorded loss is expected to train.
        starved: those that data reaches the loss from and no gradient returns to.
        unused: those that no data flows from to the loss.
        cuts: the places that starve parameters, in the order of execution.
        undecided: those of which neither can be said, because values left torch and the run is not reproducible.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.waits_for_step = trace.setup.step is not None and trace.setup.loss is None
        self.masks: Masks = propagate(trace.ops, trace.values, trace.owners, trace.forward_start)
        self.on_path = ancestors(trace.ops, trace.roots)
        self.reached = trace.reached
        self.judged = frozenset(self._judged())
        root = 0
        for value in trace.roots:
            root |= self.masks.data.get(value, 0)
        self.depends = frozenset(indices(root))
        lost = self.judged - self.reached
        self.starved = {i for i in lost if i in self.depends}
        self.unused = set(lost - self.starved)
        self.undecided: set[int] = set()
        self.proven: dict[int, int] = {}
        """Parameter → number of the op through which its value left torch on the way to the loss."""
        self.why_undecided = ""
        self._settle()
        self.cuts: list[Cut] = sorted(self._cuts(), key=lambda c: c.op)

    # -- who is judged ------------------------------------------------------------------------------------------

    def _judged(self) -> Iterator[int]:
        """Trainable parameters that this loss is expected to train (RULES, what a recording may judge)."""
        trace = self.trace
        active = {
            number
            for parameter in trace.parameters
            if parameter.index in self.reached
            for number, _ in parameter.groups
        } or {o.number for o in trace.optimizers}
        for parameter in trace.parameters:
            if not parameter.requires_grad or parameter.written or not parameter.in_tree or not parameter.numel:
                continue
            if trace.optimizers and not any(number in active for number, _ in parameter.groups):
                continue
            yield parameter.index

    # -- what left torch ----------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Nudge the unused parameters whose values left torch: if the loss moves, they are starved, not unused."""
        exits: dict[int, list[int]] = {}
        for number in range(self.trace.forward_start, len(self.trace.ops)):
            op = self.trace.ops[number]
            if op.kind == KIND_EXTRACT and op.name not in _CONTROL:
                depends = 0
                for value in op.inputs:
                    depends |= self.masks.data.get(value, 0)
                for index in indices(depends):
                    if index in self.unused:
                        exits.setdefault(index, []).append(number)
        if not exits:
            return
        if self.trace.rerun is None:
            self.why_undecided = "the set-up is not at hand any more"
            self._undecide(exits)
            return
        from gradlint.nudge import settle

        names = {p.fqn: p.tensor for p in self.trace.parameters}
        suspects = [self.trace.parameters[i].fqn for i in sorted(exits)]
        verdicts = settle(self.trace.rerun, names, suspects, contextlib.nullcontext)
        for index, numbers in exits.items():
            verdict = verdicts[self.trace.parameters[index].fqn]
            if verdict.outcome == "reaches":
                self.starved.add(index)
                self.unused.discard(index)
                self.proven[index] = numbers[0]
            elif verdict.outcome == "unknown":
                self.why_undecided = verdict.reason
                self._undecide([index])

    def _undecide(self, found: Iterable[int]) -> None:
        self.undecided |= set(found)
        self.unused -= self.undecided

    # -- the cuts -----------------------------------------------------------------------------------------------

    def _cuts(self) -> list[Cut]:
        trace = self.trace
        wanted = 0
        for index in self.starved:
            wanted |= 1 << index
        found: dict[tuple[str, Location | None, int], Cut] = {}
        relabels = self._relabel_ops()
        direct = self.on_path
        if relabels:
            direct = ancestors([op for n, op in enumerate(trace.ops) if n not in relabels], trace.roots)
        paths: dict[int, set[int]] = {}
        for index, number in self.proven.items():
            paths[index] = ancestors(trace.ops[: number + 1], trace.ops[number].inputs)
        blamed = 0
        dropped = {index for behind in trace.dropped.values() for index in behind & self.starved}
        for number, behind in trace.dropped.items():
            for index in behind & self.starved:
                blamed |= 1 << index
                self._add(found, self._op_cut(FUNCTION, number, trace.ops[number]), trace.parameters[index])
        for number, output, lost in self.masks.cuts:
            mask = lost & wanted
            if not mask or self._inside_function(number):
                continue
            for index in indices(mask):
                if index in dropped:
                    continue
                if output in self.on_path or output in paths.get(index, ()):
                    if index in self.proven and output not in self.on_path:
                        cut = self._place(number, output, leaving=self.proven[index])
                    else:
                        cut = self._place(number, output)
                    if number in relabels or (output in self.on_path and output not in direct):
                        cut.relabelled = number if number in relabels else self._relabelled_after(relabels, output)
                    blamed |= 1 << index
                    self._add(found, cut, trace.parameters[index])
        for index, number in self.proven.items():
            if not blamed >> index & 1:
                self._add(found, self._place(number, -1, leaving=number), trace.parameters[index])
        for index in self.starved - set(indices(blamed)) - set(self.proven):
            # no recorded op ends its gradient: a custom Function read it without being given it
            for number in range(trace.forward_start, len(trace.ops)):
                op = trace.ops[number]
                opaque = op.kind == KIND_OPAQUE and isinstance(op.func, type) and op.name != "CheckpointFunction"
                if opaque and any(o in self.on_path and self.masks.data.get(o, 0) >> index & 1 for o in op.outputs):
                    self._add(found, self._op_cut(FUNCTION, number, op), trace.parameters[index])
                    break
        for cut in found.values():
            cut.later = self._later(cut)
        return list(found.values())

    def _add(self, found: dict[tuple[str, Location | None, int], Cut], cut: Cut, parameter: Parameter) -> None:
        key = (cut.kind, cut.location, -1 if cut.location else cut.op)
        known = found.setdefault(key, cut)
        known.op = min(known.op, cut.op)
        if cut.relabelled is None:
            known.relabelled = None
        if parameter not in known.starved:
            known.starved.append(parameter)

    def _place(self, number: int, output: int, leaving: int | None = None) -> Cut:
        """What kind of cut an op's output is, and which line is to blame."""
        trace = self.trace
        op = trace.ops[number]
        if op.region not in (GRAD_ON, IN_FUNCTION):
            return self._region_cut(number, trace.events[op.region])
        if leaving is not None and (op.kind == KIND_EXTRACT or op.name in _DETACHES):
            # ``x.detach().numpy()``: what matters is that the value left torch
            op = trace.ops[leaving]
            cut = self._op_cut(ROUNDTRIP, leaving, op)
            cut.returned = self._return(leaving)
            return cut
        if op.region == IN_FUNCTION and op.name in _DETACHES:
            kind = DETACH  # inside a checkpoint
        elif op.kind == KIND_OPAQUE:
            kind = CHECKPOINT if op.name == "CheckpointFunction" else FUNCTION
        elif op.name in _DETACHES:
            kind = DETACH
        elif op.name in _ROUNDTRIPS or op.kind == KIND_ALIAS:
            kind = ROUNDTRIP
        elif op.name == "grad":
            kind = GRADIENT
        else:
            kind = NONDIFFERENTIABLE
        cut = self._op_cut(kind, number, op)
        cut.zero = output >= 0 and trace.values[output].requires_grad
        return cut

    def _op_cut(self, kind: str, number: int, op: Op) -> Cut:
        frame = self.trace.frame(op.site)
        where = frame.location if frame else None
        cut = Cut(kind, op.name, where, op.site, number, [], project=frame is not None and frame.project)
        code = getattr(getattr(op.func, "backward", None), "__code__", None)
        if kind == FUNCTION and code is not None:
            cut.defined = definition_location(code)
        return cut

    def _inside_function(self, number: int) -> bool:
        """Whether an op belongs to the forward of a custom Function whose backward is the user's affair (all but a
        checkpoint's, which runs the forward again)."""
        if self.trace.ops[number].region != IN_FUNCTION:
            return False
        ops = self.trace.ops
        held = next((n for n in range(number + 1, len(ops)) if ops[n].kind == KIND_OPAQUE), None)
        return held is None or ops[held].name != "CheckpointFunction"

    def _relabel_ops(self) -> set[int]:
        """Ops that made a computed tensor a leaf that requires grad, on the way to the loss; not those whose own
        gradient is then asked for (penalties, saliency, forces, cached gradients)."""
        trace = self.trace
        if any(e.op >= trace.forward_start for e in trace.events_of("backward")):
            return set()
        found = set()
        for number in range(trace.forward_start, len(trace.ops)):
            op = trace.ops[number]
            if op.name not in NEW_LEAF or not op.outputs or not trace.values[op.outputs[0]].requires_grad:
                continue
            asked = any(trace.ops[n].name == "grad" for n in self.consumers.get(op.outputs[0], ()))
            if not asked and op.outputs[0] in self.on_path and self.masks.data.get(op.outputs[0]):
                found.add(number)
        return found

    def _relabelled_after(self, relabels: set[int], output: int) -> int:
        ops = self.trace.ops
        return next(n for n in sorted(relabels) if output in ancestors(ops[:n], ops[n].inputs))

    @cached_property
    def relabels(self) -> list[Relabel]:
        """The relabelled tensors on the way to the loss that starve parameters or a term of the loss."""
        found: dict[Location | None, Relabel] = {}
        lost: list[tuple[int, list[Cut], list[Parameter]]] = [
            (cut.relabelled, [cut], cut.starved) for cut in self.cuts if cut.relabelled is not None
        ]
        lost += [(t.relabelled, t.cuts, t.parameters) for t in self.constant_terms if t.relabelled is not None]
        for number, cuts, parameters in sorted(lost, key=lambda entry: entry[0]):
            op = self.trace.ops[number]
            known = found.setdefault(self.trace.location(op.site), Relabel(op.name, op.site, [], []))
            known.parameters.extend(p for p in parameters if p not in known.parameters)
            known.cuts.extend(c for c in cuts if c.op != number)
        return list(found.values())

    @cached_property
    def constant_terms(self) -> list[ConstantTerm]:
        """The terms of the loss that depend on trainable parameters and carry no gradient, and that no starving cut
        tells about."""
        from gradlint.terms import constant_terms

        return constant_terms(self)

    @cached_property
    def dropped_terms(self) -> list[DroppedTerm]:
        """Scalars with a gradient that reach neither loss nor output, with the parameters nothing else uses."""
        from gradlint.terms import dropped_terms

        return dropped_terms(self)

    def first_cuts(self, value: int, wanted: int) -> list[tuple[Cut, int]]:
        """The cuts before a value that end the gradient of some parameters (a mask), and of which each does."""
        ops = self.trace.ops
        before = ancestors(ops[: self.trace.values[value].producer + 1], [value])
        return [
            (self._place(number, output), lost & wanted)
            for number, output, lost in self.masks.cuts
            if output in before and lost & wanted and not self._inside_function(number)
        ]

    def _region_cut(self, number: int, event: Event) -> Cut:
        trace = self.trace
        library = event.data["library"]
        decorated = event.data["decorated"]
        if library is not None or (decorated is not None and not is_project(decorated.co_filename)):
            code = library or decorated  # torch.distributions' sample(), say: the user's call is to blame
            if code.co_filename.replace("\\", "/").rpartition("/torch/")[1]:
                frame = trace.frame(event.site)
                return Cut(
                    NONDIFFERENTIABLE, code.co_name, frame.location if frame else None, event.site, number, [],
                    project=frame is not None and frame.project,
                )  # fmt: skip
        where = region_location(trace, event)
        frame = trace.frame(event.site)
        project = is_project(where.path) if where else frame is not None and frame.project
        cut = Cut(NO_GRAD, event.data["how"], where, event.site, number, [], project=project)
        cut.held = self._held(event.number)
        return cut

    def _held(self, region: int) -> list[Parameter]:
        """The parameters used inside a region (or another run of the same line)."""
        where = region_location(self.trace, self.trace.events[region])
        found: set[int] = set()
        for op in self.trace.ops[self.trace.forward_start :]:
            if op.region >= 0 and region_location(self.trace, self.trace.events[op.region]) == where:
                found.update(self.trace.owners[v] for v in op.inputs if v in self.trace.owners)
        return [self.trace.parameters[i] for i in sorted(found)]

    def _return(self, leaving: int) -> Location | None:
        """Where a tensor was made from what had left torch: the first making of one after that."""
        for op in self.trace.ops[leaving + 1 :]:
            if op.name in ("tensor", "as_tensor", "full", "from_numpy", "FloatTensor", "scalar_tensor", "asarray"):
                return self.trace.location(op.site)
        return None

    def _later(self, cut: Cut) -> list[Location]:
        """Detaches and regions downstream of a cut, on the way to the loss: the next ones to be met if it went."""
        trace = self.trace
        wanted = 0
        for parameter in cut.starved:
            wanted |= 1 << parameter.index
        places: dict[Location, None] = {}
        for number in range(cut.op + 1, len(trace.ops)):
            op = trace.ops[number]
            detaches = op.name in _DETACHES or op.name == "data"
            if not detaches and op.region < 0:
                continue
            if not any(o in self.on_path for o in op.outputs):
                continue
            depends = 0
            for value in op.inputs:
                depends |= self.masks.data.get(value, 0) & ~self.masks.live.get(value, 0)
            if depends & wanted:
                other = self._place(number, op.outputs[0])
                if other.location is not None and other.location != cut.location:
                    places.setdefault(other.location)
        return list(places)[:5]

    @property
    def loss_lacks_gradient(self) -> bool:
        """Whether nothing that the gradient is followed from requires grad, in a set-up that is meant to train."""
        trace = self.trace
        if not trace.roots or any(trace.values[r].requires_grad for r in trace.roots):
            return False
        return bool(trace.optimizers) or any(p.requires_grad and p.in_tree for p in trace.parameters)

    # -- for rules and explanations -----------------------------------------------------------------------------

    def by_index(self, found: Iterable[int]) -> list[Parameter]:
        """Parameters in the model's order."""
        return [self.trace.parameters[i] for i in sorted(found)]

    def state(self, parameter: Parameter) -> str:
        """``frozen``, ``reached``, ``starved``, ``unused``, ``undecided`` or ``unjudged``."""
        index = parameter.index
        if not parameter.requires_grad:
            return "frozen"
        if index in self.reached:
            return "reached"
        if index in self.starved:
            return "starved"
        if index in self.unused:
            return "unused"
        return "undecided" if index in self.undecided else "unjudged"

    def readers(self, parameter: Parameter) -> list[int]:
        """Numbers of the ops of forward and loss that read a parameter."""
        values = {v for v, i in self.trace.owners.items() if i == parameter.index}
        ops = self.trace.ops
        return [n for n in range(self.trace.forward_start, len(ops)) if values.intersection(ops[n].inputs)]

    @cached_property
    def consumers(self) -> dict[int, list[int]]:
        """Value → numbers of the ops of forward and loss that read it, in order."""
        found: dict[int, list[int]] = {}
        for number in range(self.trace.forward_start, len(self.trace.ops)):
            for value in dict.fromkeys(self.trace.ops[number].inputs):
                found.setdefault(value, []).append(number)
        return found

    def only_leads_to(self, value: int, number: int) -> bool:
        """Whether all that is done with a value is to rearrange it and give it to one op."""
        trace = self.trace
        pending = [value]
        while pending:
            value = pending.pop()
            if value in trace.roots:
                return False
            for reader in self.consumers.get(value, ()):
                outputs = trace.ops[reader].outputs
                if reader == number or not self.on_path.intersection(outputs):
                    continue  # what does not reach the loss does not count
                if origin(trace, outputs[0])[0] != origin(trace, value)[0]:
                    return False
                pending.extend(o for o in outputs if o != value)
        return True

    def trained_by(self, values: Iterable[int]) -> list[Parameter]:
        """The trainable parameters that gradient is recorded to return to from any of some values."""
        live = 0
        for value in values:
            live |= self.masks.live.get(value, 0)
        return [p for p in self.by_index(indices(live)) if p.requires_grad and p.index in self.reached]

    def dropped_at(self, parameter: Parameter) -> Op | None:
        """The last op whose result depends on a parameter and is not used by any other op; None if it never ran."""
        bit = 1 << parameter.index
        consumed: set[int] = set()
        for op in reversed(self.trace.ops[self.trace.forward_start :]):
            depends = [o for o in op.outputs if self.masks.data.get(o, 0) & bit]
            if depends and op.site != NO_SITE and not consumed.intersection(op.outputs):
                return op
            consumed.update(op.inputs)
        return None


def region_location(trace: Trace, event: Event) -> Location | None:
    """The ``with`` or decorator line that switched grad mode off."""
    decorated = event.data["decorated"]
    if decorated is not None and is_project(decorated.co_filename):
        return decorator_location(decorated, frozenset((event.data["how"], "no_grad", "inference_mode", "set_grad_enabled")))
    return trace.location(event.site)
