"""Facts that a flow starts from: origins of data, ends of gradient, and the parameters that are judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from gradlint.flow.cut import Cut, place
from gradlint.flow.evidence import Evidence
from gradlint.flow.origin import computed_value
from gradlint.flow.own_losses import by_own_loss
from gradlint.traces.dataflow import Masks, ancestors, indices, propagate, union, value_inputs
from gradlint.traces.events import GroupAdded
from gradlint.traces.ids import NO_CALL, NO_SITE, ModuleIndex, OpIndex, ParameterIndex, ValueId
from gradlint.traces.op_families import RANDOM, VALUE_FREE
from gradlint.traces.ops import GRAD_ON, KIND_EXTRACT, Op
from gradlint.traces.trace import Group, Optimizer, Parameter, Trace, prefixes_of


class FlowFacts:
    """The facts about a trace that the search for cuts and for terms of the loss reads.

    Attributes:
        trace: the recording.
        evidence: answers to the questions that the recording leaves open.
        masks: value → the parameters that it depends on, and those that its gradient returns to.
        on_path: values that the loss is computed from.
        reached: indices of the parameters that gradient returns to.
        judged: indices of the parameters that the recorded loss is expected to train.
        depends: indices of the parameters that data flows from to the loss.
        starved: indices of judged parameters that the loss depends on and no gradient returns to.
        unused: indices of judged parameters that no data flows from to the loss.
        in_other_losses: indices of those from which data flows to a loss that their optimizer is not stepped for.
        steering: indices of those whose values decide which code runs.
        undecided: indices of judged parameters whose values left torch, in a run that cannot be reproduced.
        proven: parameter → index of the op through which its value left torch on the way to the loss.
        why_undecided: the reason why some are undecided.
        cuts: the places that starve parameters, in the order of execution.
    """

    def __init__(self, trace: Trace, evidence: Evidence) -> None:
        self.trace = trace
        self.evidence = evidence
        self.masks: Masks = propagate(trace.ops, trace.values, trace.owners, trace.forward_start, trace.dropped)
        self.on_path = ancestors(trace.ops, trace.roots)
        self.reached = trace.reached
        self.judged = frozenset(self._judged()) - self._trained_as_another()
        self.depends = frozenset(indices(union(self.masks.data, trace.roots)))
        self.cuts: list[Cut] = []
        self._divide()

    def _divide(self) -> None:
        """Divide the judged parameters without gradient into starved and unused ones."""
        lost = self.judged - self.reached
        self.starved: set[ParameterIndex] = set()
        for roots, members in by_own_loss(self.trace, sorted(lost)):
            depends = union(self.masks.data, roots)
            self.starved.update(i for i in members if depends >> i & 1)
        self.unused = set(lost - self.starved)
        self.in_other_losses = frozenset(i for i in self.unused if i in self.depends)
        self.steering: set[ParameterIndex] = set()
        self.undecided: set[ParameterIndex] = set()
        self.proven: dict[ParameterIndex, int] = {}
        self.why_undecided = ""

    def _judged(self) -> Iterator[ParameterIndex]:
        """Yield the trainable parameters that this loss is expected to train."""
        trace = self.trace
        training = trace.training
        in_steps = training is not None and bool(training.backwards)
        stepped = {key for step in training.steps for key in step.content} if training is not None else set()
        active = {
            number
            for parameter in trace.parameters
            if (parameter.key in stepped if stepped else parameter.index in self.reached)
            for number, _ in parameter.groups
        } or {o.number for o in trace.optimizers}
        for parameter in trace.parameters:
            if training is not None and not training.may_train(parameter.key):
                continue  # frozen in every pass that trained something for its optimizer
            if not parameter.requires_grad or parameter.written or not parameter.in_tree or not parameter.numel:
                continue
            if not in_steps and not parameter.requires_grad_after:
                continue  # frozen by the forward, as it would be in a backward
            if trace.optimizers and not any(number in active for number, _ in parameter.groups):
                continue
            yield parameter.index

    def _trained_as_another(self) -> set[ParameterIndex]:
        """Return the parameters that gradient reaches only under the name of another.

        They share its memory, as a ``Parameter`` made of a view of another does: an update of one moves both.
        """
        lost = [p for p in self.trace.parameters if p.requires_grad and p.index not in self.reached]
        return {p.index for p in lost if not self.reached.isdisjoint(p.shares_memory_with)}

    def meant_to_train(self, parameter: Parameter) -> bool:
        """Return True if an optimizer holds a parameter or gradient reaches it.

        Without an optimizer, a read with grad mode on will do. True also if no forward was recorded.
        """
        trace = self.trace
        if parameter.groups or parameter.index in self.reached:
            return True
        if trace.optimizers:
            return False
        ran = any(call.start >= trace.forward_start for call in trace.calls)
        return not ran or any(trace.ops[number].region == GRAD_ON for number in self.readers(parameter))

    @property
    def loss_lacks_gradient(self) -> bool:
        """True if no root of the gradient requires grad, in a setup that is meant to train."""
        trace = self.trace
        if not trace.roots or any(trace.values[r].requires_grad for r in trace.roots):
            return False
        return bool(trace.optimizers) or any(p.requires_grad and p.in_tree for p in trace.parameters)

    @property
    def unregistered(self) -> frozenset[ParameterIndex]:
        """Indices of the parameters of modules that ran in the forward, that the model holds and does not register,
        that no optimizer holds, and that gradient reaches."""
        trace = self.trace
        ran = set(self._run_by_the_model())
        return frozenset(
            p.index
            for p in trace.parameters
            if not p.in_tree
            and p.module in trace.unregistered_modules
            and p.module in ran
            and not p.groups
            and p.requires_grad
            if p.index in self.reached and p.index not in trace.recreated
        )

    def _run_by_the_model(self) -> Iterator[ModuleIndex]:
        """Yield the modules that the forward ran, or that the model ran in the recorded steps."""
        trace = self.trace
        in_tree = {number for number, module in enumerate(trace.modules) if module.in_tree}
        inside: list[bool] = []
        """Whether each call is one of a module in the tree, or within such a call."""
        for call in trace.calls:
            within = call.parent != NO_CALL and inside[call.parent]
            inside.append(within or call.module in in_tree)
            if trace.forward_start <= call.start < trace.loss_start or (within and trace.training is not None):
                yield call.module

    @cached_property
    def exhausted(self) -> list[tuple[Optimizer, Group]]:
        """The groups that are empty because the iterator they were given had been used up."""
        trace = self.trace
        return [
            (o, g)
            for o in trace.optimizers
            for g in o.groups
            if not g.keys and g.event >= 0 and isinstance(e := trace.events[g.event], GroupAdded) and e.exhausted
        ]

    def first_cuts(self, value: ValueId, wanted: int) -> list[tuple[Cut, int]]:
        """Return the cuts between a value and some parameters (a mask), each with its parameters.

        A cut that lies behind another counts only for parameters that have no cut before it.
        """
        ops, values = self.trace.ops[: self.trace.values[value].producer + 1], self.trace.values
        before = ancestors(ops, [value])
        places = [
            (number, output, lost & wanted)
            for number, output, lost in self.masks.cuts
            if output in before and lost & wanted
        ]
        if len(places) > 1:
            without = ancestors([op for op in ops if not any(values[o].requires_grad for o in op.outputs)], [value])
            places = [cut for cut in places if cut[1] in without] or places
        return [(place(self.trace, number, output), lost) for number, output, lost in places]

    def behind(self, values: Iterable[ValueId]) -> frozenset[ParameterIndex]:
        """Return the indices of the parameters that data flows from to any of some values."""
        return frozenset(indices(union(self.masks.data, values)))

    def trained_without(self, numbers: Iterable[OpIndex]) -> frozenset[ParameterIndex]:
        """Return the indices of the parameters that gradient returns to on ways that avoid some ops."""
        trace = self.trace
        ops = list(trace.ops)
        for number in numbers:
            ops[number] = ops[number]._replace(outputs=())
        masks = propagate(ops, trace.values, trace.owners, trace.forward_start, trace.dropped)
        return frozenset(indices(union(masks.live, trace.roots)))

    def by_index(self, numbers: Iterable[ParameterIndex]) -> list[Parameter]:
        """Return parameters in the model's order."""
        return [self.trace.parameters[i] for i in sorted(numbers)]

    def readers(self, parameter: Parameter) -> list[int]:
        """Return the numbers of the ops of forward and loss that read a parameter."""
        values = self.trace.values_of.get(parameter.index, ())
        return sorted({number for value in values for number in self.consumers.get(value, ())})

    @cached_property
    def consumers(self) -> dict[ValueId, list[int]]:
        """Value → numbers of the ops of forward and loss that read it, in order."""
        numbers: dict[ValueId, list[int]] = {}
        for number in range(self.trace.forward_start, len(self.trace.ops)):
            for value in dict.fromkeys(self.trace.ops[number].inputs):
                numbers.setdefault(value, []).append(number)
        return numbers

    @cached_property
    def uses_random_numbers(self) -> bool:
        """True if random numbers may decide which layers run: drawn outside torch, or taken out of it."""
        trace = self.trace
        drawn: set[ValueId] = set()
        given = {*trace.inputs, *trace.owners}
        for number, op in enumerate(trace.ops[: trace.loss_start]):
            if op.kind == KIND_EXTRACT and op.call >= 0 and number >= trace.forward_start:
                if given.isdisjoint(op.inputs) and not drawn.isdisjoint(op.inputs):
                    return True
            read = value_inputs(op)
            if op.name in RANDOM or not drawn.isdisjoint(read):
                drawn.update(op.outputs)
            if not given.isdisjoint(read):
                given.update(op.outputs)
        return trace.uses_random_numbers

    def only_leads_to(self, value: ValueId, number: int) -> bool:
        """Return True if a value is only rearranged and passed to one op."""
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
                if computed_value(trace, outputs[0])[0] != computed_value(trace, value)[0]:
                    return False
                pending.extend(o for o in outputs if o != value)
        return True

    def trained_by(self, values: Iterable[ValueId]) -> list[Parameter]:
        """Return the trainable parameters to which gradient returns from any of some values."""
        live = self.by_index(indices(union(self.masks.live, values)))
        return [p for p in live if p.requires_grad and p.index in self.reached]

    @cached_property
    def partly_used(self) -> frozenset[str]:
        """Names of the modules with a trainable parameter that is not unused, by the parameters' first names."""
        return prefixes_of(p.fqn for p in self.trace.parameters if p.requires_grad and p.index not in self.unused)

    def dropped_at(self, parameter: Parameter) -> Op | None:
        """Return the last op that depends on a parameter and whose result no other op uses.

        Ops with grad mode off (a log, an average of the weights) count only if there are no others.
        None if the parameter was never read.
        """
        number = self._lost_with_grad.get(parameter.index, self.lost_at.get(parameter.index))
        return self.trace.ops[number] if number is not None else None

    @cached_property
    def lost_at(self) -> dict[ParameterIndex, OpIndex]:
        """Parameter → the last op that depends on it and has no reader."""
        return self._last_without_reader(self.trace.ops)

    @cached_property
    def _lost_with_grad(self) -> dict[ParameterIndex, OpIndex]:
        """Parameter → the same, of the ops that ran with grad mode on."""
        return self._last_without_reader([op if op.region < 0 else op._replace(outputs=()) for op in self.trace.ops])

    def _last_without_reader(self, ops: Sequence[Op]) -> dict[ParameterIndex, OpIndex]:
        found: dict[ParameterIndex, OpIndex] = {}
        lost = 0
        consumed = dict.fromkeys(self.trace.roots, -1)
        for number in range(len(ops) - 1, self.trace.forward_start - 1, -1):
            op = ops[number]
            # what reads a shape, or takes a number out for a log or a branch, depends on nothing
            depends = union(self.masks.data, op.outputs)
            if op.site != NO_SITE:
                dropped = depends & ~union(consumed, op.outputs) & ~lost
                found.update(dict.fromkeys(indices(dropped), OpIndex(number)))
                lost |= dropped
            for value in op.inputs if depends and op.name not in VALUE_FREE else ():
                consumed[value] = consumed.get(value, 0) | depends
        return found
