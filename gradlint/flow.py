"""Which parameters the loss depends on, which its gradient reaches, and the cuts that explain the difference.

Computed once from a trace and shared by rules, summaries and explanations. Imports no torch.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from gradlint.findings import Location
from gradlint.provenance import NEW_LEAF, VALUE_FREE, Masks, ancestors, indices, propagate
from gradlint.rearrange import origin
from gradlint.sites import NO_SITE, decorator_location, definition_location, is_project
from gradlint.traces import (
    GRAD_ON,
    IN_FUNCTION,
    KIND_ALIAS,
    KIND_EXTRACT,
    KIND_OPAQUE,
    Event,
    Group,
    Op,
    Optimizer,
    Parameter,
    Trace,
)

if TYPE_CHECKING:
    from gradlint.nudge import Verdict
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
    (
        "data",
        "Variable",
        "Parameter",
        "tensor",
        "as_tensor",
        "asarray",
        "new_tensor",
        "from_numpy",
        "alias",
        "set_",
        "sparse_coo_tensor",
    )
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


@dataclass(frozen=True)
class Stale:
    """A tensor in an optimizer that stood in the model when it was given, and was replaced afterwards."""

    optimizer: int
    """Number of the optimizer."""
    fqn: str
    """The name it had."""
    replaced: Event
    """The registration that took its place."""
    now: tuple[Parameter, ...]
    """What has the name now, or what is in the module that took the place of its own."""


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
        self.masks: Masks = propagate(trace.ops, trace.values, trace.owners, trace.forward_start, trace.dropped)
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
        """Nudge the unused parameters whose values left torch, or went where the recording does not tell: if the loss
        moves, they are starved, not unused."""
        exits: dict[int, list[int]] = {}
        steering = 0
        if not self.trace.roots:
            return  # there is no loss to move
        for number in range(self.trace.forward_start, len(self.trace.ops)):
            op = self.trace.ops[number]
            if op.kind == KIND_EXTRACT:
                depends = 0
                for value in op.inputs:
                    depends |= self.masks.data.get(value, 0)
                if op.name in _CONTROL:
                    steering |= depends
                    continue
                for index in indices(depends):
                    if index in self.unused:
                        exits.setdefault(index, []).append(number)
        for index in self.unused - set(exits):
            lost = self._lost_at(1 << index)
            if not steering >> index & 1 and (lost >= 0 or self.trace.unseen):
                exits[index] = [lost]
        if not exits:
            return
        groups: dict[tuple[int, ...], list[int]] = {}
        for index, numbers in exits.items():
            groups.setdefault(tuple(numbers), []).append(index)
        # Parameters that left by the same exits share their fate: one verdict serves them all.
        for leaving, members in groups.items():
            verdicts = self._nudged(members, together=True).values()
            outcomes = {v.outcome for v in verdicts}
            if "reaches" in outcomes:
                self.starved.update(members)
                self.unused.difference_update(members)
                self.proven.update(dict.fromkeys(members, self._exit(leaving)))
            elif "unknown" in outcomes:
                self.why_undecided = next(v.reason for v in verdicts if v.reason)
                self._undecide(members)

    def _exit(self, numbers: tuple[int, ...]) -> int:
        """The exit to blame: whole arrays and lists rather than single numbers, which are often only logged."""
        whole = [n for n in numbers if self.trace.ops[n].name in ("numpy", "__array__", "tolist", "__dlpack__")]
        return (whole or list(numbers))[0]

    def _nudged(self, suspects: Iterable[int], together: bool = False) -> dict[int, Verdict]:
        """Whether the loss moves when they are moved: each by itself, or all of them together."""
        from gradlint.nudge import Verdict, settle

        parameters = self.by_index(suspects)
        if self.trace.rerun is None:
            return {p.index: Verdict("unknown", reason="the set-up is not at hand any more") for p in parameters}
        names = {p.fqn: p.tensor for p in self.trace.parameters}
        fqns = [p.fqn for p in parameters]
        runs = 12 if together else 40
        verdicts = settle(self.trace.rerun, names, fqns, contextlib.nullcontext, max_runs=runs, apart=not together)
        return {p.index: verdicts[p.fqn] for p in parameters}

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
            if number >= 0:
                paths[index] = ancestors(trace.ops[: number + 1], trace.ops[number].inputs)
        blamed = 0
        for cut_at, output, lost in self.masks.cuts:
            mask = lost & wanted
            if not mask:
                continue
            for index in indices(mask):
                if self.proven.get(index, 0) < 0:
                    continue
                number = self._detached_inside(cut_at, 1 << index)
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
            if not blamed >> index & 1 and number < 0:
                site = trace.unseen[0][1] if trace.unseen else NO_SITE
                cut = Cut(ROUNDTRIP, "unseen", trace.location(site), site, len(trace.ops) - 1, [])
                self._add(found, cut, trace.parameters[index])
            elif not blamed >> index & 1:
                self._add(found, self._place(number, -1, leaving=number), trace.parameters[index])
        self._unexplained({i for i in self.starved if not blamed >> i & 1} - set(self.proven), found)
        for cut in found.values():
            cut.later = self._later(cut)
        return list(found.values())

    def _unexplained(self, left: set[int], found: dict[tuple[str, Location | None, int], Cut]) -> None:
        """Find the cut inside of what was taken as a whole; without any, a nudge tells whether the path is real."""
        trace = self.trace
        for index in sorted(left):
            bit = 1 << index
            whole = -1
            for number in range(trace.forward_start, len(trace.ops)):
                op = trace.ops[number]
                if not any(o in self.on_path and self.masks.data.get(o, 0) & bit for o in op.outputs):
                    continue
                if not any(self.masks.data.get(i, 0) & bit for i in op.inputs):
                    continue
                if op.kind == KIND_OPAQUE:
                    whole = number
            if whole >= 0:
                left.discard(index)
                self._add(found, self._place(self._detached_inside(whole, bit), -1), trace.parameters[index])
        if not left:
            return
        for index, verdict in self._nudged(left).items():
            if verdict.outcome == "reaches":
                continue
            self.starved.discard(index)
            if verdict.outcome == "unknown":
                self.why_undecided = verdict.reason
                self.undecided.add(index)
            else:
                self.unused.add(index)  # an autograd.grad, say, whose result its value has no part in

    def _detached_inside(self, number: int, bit: int) -> int:
        """The number of the detach inside a reentrant checkpoint that a parameter's data passed, else `number`."""
        ops = self.trace.ops
        if ops[number].name != "CheckpointFunction" or ops[number].kind != KIND_OPAQUE:
            return number
        pending = [ops[number].inputs[-1]]
        seen: set[int] = set()
        while pending:
            producer = self.trace.values[pending.pop()].producer
            if 0 <= producer < number and producer not in seen and ops[producer].region == IN_FUNCTION:
                seen.add(producer)
                op = ops[producer]
                if op.name in _DETACHES and any(self.masks.data.get(i, 0) & bit for i in op.inputs):
                    return producer
                pending += op.inputs
        return number

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
        if leaving is not None and (op.kind == KIND_EXTRACT or op.name in _DETACHES or output < 0):
            # ``x.detach().numpy()``: what matters is that the value left torch
            op = trace.ops[leaving]
            cut = self._op_cut(ROUNDTRIP, leaving, op)
            if op.kind == KIND_EXTRACT:
                cut.returned = self._return(leaving)
            else:
                cut.name = "unseen"
            return cut
        if op.kind == KIND_OPAQUE:
            kind = FUNCTION
            if op.name == "CheckpointFunction":
                kind = CHECKPOINT
            elif output >= 0 and not trace.values[output].requires_grad:
                kind = NONDIFFERENTIABLE
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
            if output in before and lost & wanted
        ]

    def taken_out(self, number: int) -> Cut:
        """The cut that an op is through which values leave torch."""
        return self._op_cut(ROUNDTRIP, number, self.trace.ops[number])

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

    @property
    def unregistered(self) -> frozenset[int]:
        """Indices of the parameters of modules that ran in the forward, that the model holds and does not register,
        that no optimizer holds, and that gradient reaches. GL104 speaks of them; GL302 does not."""
        trace = self.trace
        ran = {c.module for c in trace.calls if trace.forward_start <= c.start < trace.loss_start}
        return frozenset(
            p.index
            for p in trace.parameters
            if not p.in_tree and p.module in trace.held and p.module in ran and not p.groups and p.requires_grad
            if p.index in self.reached and p.index not in trace.recreated
        )

    @functools.cached_property
    def exhausted(self) -> list[tuple[Optimizer, Group]]:
        """The groups that are empty because the iterator they were given had been used up."""
        trace = self.trace
        return [
            (o, g)
            for o in trace.optimizers
            for g in o.groups
            if not g.keys and g.event >= 0 and trace.events[g.event].data.get("exhausted")
        ]

    @property
    def lost_to_iterators(self) -> frozenset[int]:
        """Indices of the trainable parameters that no optimizer holds where a group came out empty. GL307 speaks of
        them; GL302 does not."""
        if not self.exhausted:
            return frozenset()
        return frozenset(p.index for p in self.trace.parameters if p.requires_grad and p.in_tree and not p.groups)

    @property
    def replaced(self) -> frozenset[int]:
        """Indices of the parameters that took the place of ones an optimizer still holds. GL304 speaks of them."""
        return frozenset(p.index for s in self.stale for p in s.now)

    @functools.cached_property
    def stale(self) -> list[Stale]:
        """The tensors that optimizers hold and the model no longer does."""
        trace = self.trace
        unknown = [
            (optimizer, group, key)
            for optimizer in trace.optimizers
            for group in optimizer.groups
            for key in group.keys
            if key not in trace.by_key and group.event >= 0
        ]
        return [s for o, g, key in unknown if (s := self._stale(o.number, g.event, key)) is not None]

    def _stale(self, optimizer: int, given: int, key: int) -> Stale | None:
        trace = self.trace
        events = [e for e in trace.events if e.kind == "register"]
        last = next((e for e in reversed(events) if e.data.get("parameter") == key), None)
        names: list[str] = []
        while last is not None:
            module, name = last.data["module"], last.data["name"]
            names.insert(0, name)
            if trace.modules[module].in_tree:
                slot = [e for e in events if e.data["module"] == module and e.data["name"] == name]
                if slot[-1] is last or slot[-1].number < given:
                    return None
                prefix = trace.modules[module].fqn
                return self._replaced_by(optimizer, ".".join([prefix, *names] if prefix else names), slot[-1])
            above = next((e for e in reversed(events) if e.data.get("child") == module), None)
            if above is None:
                return self._rebuilt(optimizer, given, module, ".".join(names))
            last = above
        return None

    def _replaced_by(self, optimizer: int, fqn: str, event: Event) -> Stale:
        trace = self.trace
        same = trace.by_fqn.get(fqn)
        if same is not None or "child" not in event.data:
            return Stale(optimizer, fqn, event, () if same is None else (same,))
        return Stale(optimizer, fqn, event, tuple(trace.below(trace.modules[event.data["child"]])))

    def _rebuilt(self, optimizer: int, given: int, module: int, fqn: str) -> Stale | None:
        """The case that the whole model was built a second time, after the optimizer."""
        trace = self.trace
        old = trace.modules[module]
        root = next((m for m in trace.modules if m.in_tree and m.parent < 0), None)
        if root is None or root.fqn or root.type is not old.type or old.calls or fqn not in trace.by_fqn:
            return None
        if any(p.groups for p in trace.parameters if p.in_tree):
            return None
        first = next((e for e in trace.events if e.kind == "register" and e.data["module"] == root.number), None)
        return self._replaced_by(optimizer, fqn, first) if first is not None and first.number > given else None

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
        number = self._lost_at(1 << parameter.index)
        return self.trace.ops[number] if number >= 0 else None

    def _lost_at(self, bit: int) -> int:
        consumed = set(self.trace.roots)
        for number in range(len(self.trace.ops) - 1, self.trace.forward_start - 1, -1):
            op = self.trace.ops[number]
            if not any(self.masks.data.get(o, 0) & bit for o in op.outputs):
                continue  # reads a shape, or takes a number out for a log or a branch: that is no use of the result
            if op.site != NO_SITE and not consumed.intersection(op.outputs):
                return number
            if op.name not in VALUE_FREE:
                consumed.update(op.inputs)
        return -1


def region_location(trace: Trace, event: Event) -> Location | None:
    """The ``with`` or decorator line that switched grad mode off."""
    decorated = event.data["decorated"]
    if decorated is not None and is_project(decorated.co_filename):
        return decorator_location(
            decorated, frozenset((event.data["how"], "no_grad", "inference_mode", "set_grad_enabled"))
        )
    return trace.location(event.site)
