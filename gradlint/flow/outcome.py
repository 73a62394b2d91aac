"""The outcome of training for each parameter, and the one line that decides it.

Contracts, the lock and explanations share it; rules about single mistakes do not need it.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gradlint.flow.cut import Cut, CutKind
from gradlint.flow.flow import Flow
from gradlint.location import Location
from gradlint.traces.events import ChildRegistration, Freeze, ParameterRegistration, Registration, Unfreeze
from gradlint.traces.ids import NO_SITE, ModuleIndex, OptimizerIndex, ParameterIndex, ParameterKey, SiteId
from gradlint.traces.trace import Group, Optimizer, Parameter, Trace


class OutcomeKind(enum.Enum):
    """The outcome of training for a parameter, in the words that users read."""

    TRAINS = "trains"
    """Gradient reaches it, and an optimizer updates it if one is known."""
    FROZEN = "frozen"
    """Its ``requires_grad`` is False."""
    NO_GRADIENT = "no gradient"
    """The loss depends on it and no gradient returns: it is starved."""
    UNUSED = "unused"
    """The loss does not depend on it."""
    NOT_IN_OPTIMIZER = "not in an optimizer"
    ZERO_LR = "zero learning rate"
    UNKNOWN = "unknown"
    """The recording does not show it."""

    @property
    def plural(self) -> str:
        """Return its words after a number of parameters or after "are": ``train``, ``without gradient``."""
        return _PLURALS.get(self.value, self.value)


_PLURALS = {"trains": "train", "no gradient": "without gradient", "zero learning rate": "at zero learning rate"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of training for one parameter, and its cause."""

    kind: OutcomeKind
    why: str
    """A clause that follows a colon: ``frozen``, ``detach() cuts the gradient path``."""
    location: Location | None = None
    """The line that decides it, if any."""
    site: SiteId = NO_SITE
    """The call chain of that line."""
    by: str = ""
    """Name of the op or switch that stops its gradient: ``detach``, ``no_grad``, ``argmax``."""
    cut: Cut | None = None


def kind_of(flow: Flow, parameter: Parameter) -> OutcomeKind:
    """Return the outcome of training for a parameter, without its cause."""
    trace = flow.trace
    if _applied(trace, parameter):
        return OutcomeKind.TRAINS
    if not _requires_grad(trace, parameter) and parameter.index not in flow.reached:
        return OutcomeKind.FROZEN
    if trace.optimizers and not parameter.groups:
        return OutcomeKind.NOT_IN_OPTIMIZER
    if parameter.groups and _still_group(trace, parameter) is not None:
        return OutcomeKind.ZERO_LR
    if _why_unknown(flow, parameter) is not None:
        return OutcomeKind.UNKNOWN
    if parameter.index in flow.reached:
        return OutcomeKind.TRAINS
    return OutcomeKind.NO_GRADIENT if parameter.index in flow.starved else OutcomeKind.UNUSED


def outcome_of(flow: Flow, parameter: Parameter) -> Outcome:
    """Return the outcome of training for a parameter, and its cause."""
    trace = flow.trace
    kind = kind_of(flow, parameter)
    match kind:
        case OutcomeKind.TRAINS:
            return _trains(trace, parameter)
        case OutcomeKind.FROZEN:
            return _frozen(trace, parameter)
        case OutcomeKind.NOT_IN_OPTIMIZER:
            return _not_in_optimizer(flow, parameter)
        case OutcomeKind.ZERO_LR:
            still = _still_group(trace, parameter)
            assert still is not None
            return _in_group(trace, kind, "the learning rate is 0", still)
        case OutcomeKind.UNKNOWN:
            return Outcome(kind, _why_unknown(flow, parameter) or "")
        case OutcomeKind.NO_GRADIENT:
            return _without_gradient(flow, parameter)
        case OutcomeKind.UNUSED:
            return _unused(flow, parameter)
    raise AssertionError(kind)


def value_change_of(flow: Flow, parameter: Parameter) -> Outcome | None:
    """Return how training would change a parameter's value; None if it would not.

    None also if nothing is known. Weight decay changes a value even with a gradient of exactly zero.
    """
    trace = flow.trace
    outcome = outcome_of(flow, parameter)
    if outcome.kind is OutcomeKind.TRAINS:
        return outcome
    for step in trace.training.steps if trace.training is not None else ():
        content = step.content.get(parameter.key)
        if content is not None and content.moved:
            return _at(trace, OutcomeKind.TRAINS, "changed by the recorded step, without a gradient", step.site)
    if parameter.index not in trace.reached_zero or outcome.kind not in (OutcomeKind.NO_GRADIENT, OutcomeKind.UNUSED):
        return None
    for number, index in parameter.groups:
        optimizer = trace.optimizers[number]
        group = optimizer.groups[index]
        if group.weight_decay and (group.lr or group.scheduled):
            why = f"the gradient is zero everywhere, but the weight decay of {optimizer_label(optimizer)} applies"
            return _in_group(trace, OutcomeKind.TRAINS, why, (number, index))
    return None


def optimizer_label(optimizer: Optimizer) -> str:
    """Return an optimizer's class, with its name if there are several: ``SGD 'critic'``."""
    return f"{optimizer.type} {optimizer.name!r}" if optimizer.name else optimizer.type


def group_location(trace: Trace, optimizer: Optimizer, group: Group) -> Location | None:
    """Return the group's own line in the constructor call, else the line that added it."""
    written_out = optimizer.arguments.group_locations
    constructed = optimizer.constructed
    literal = len(written_out) == constructed and group.index < constructed
    return written_out[group.index] if literal else trace.location(group.site)


def nearest_optimizer(trace: Trace, parameter: Parameter) -> Optimizer:
    """Return the optimizer with the nearest names, which was probably meant to contain it."""
    if len(trace.optimizers) == 1:
        return trace.optimizers[0]

    prefixes = list(itertools.accumulate(parameter.fqn.split("."), "{}.{}".format))

    def kinship(optimizer: Optimizer) -> int:
        held = trace.held_prefixes[optimizer.number]
        return next((count for count in range(len(prefixes), 0, -1) if prefixes[count - 1] in held), 0)

    first = _trained_with(trace, parameter)
    return max(trace.optimizers, key=lambda o: (kinship(o), o is first))


def _trained_with(trace: Trace, parameter: Parameter) -> Optimizer | None:
    """Return the optimizer stepped for the first backward pass that reached a parameter."""
    training = trace.training
    backward = next((b for b in training.backwards if parameter.key in b.deposits), None) if training else None
    if training is None or backward is None or not backward.applied_by:
        return None
    step = training.steps[min(backward.applied_by)]
    return next((o for o in trace.optimizers if o.key in step.optimizers), None)


def made_site(trace: Trace, parameter: Parameter, others: Container[str] | None = None) -> SiteId:
    """Return the site where a parameter was put into the model, NO_SITE if unknown.

    It is that of the widest module around it that is not among `others` (names): modules with a parameter of another
    outcome. They are those with any trainable parameter if none are given.
    """
    if others is None:
        others = trace.trainable_prefixes
    site = parameter.registered_by.site if parameter.registered_by else NO_SITE
    for module in trace.around(parameter.module):
        if not module.fqn or module.fqn in others:
            break
        if module.registered_at >= 0:
            site = module.registered_at
    return site


def unfrozen_by(parameter: Parameter) -> Unfreeze | None:
    """Return the event that unfroze a parameter after a freeze; None if there is none."""
    changes = parameter.flag_changes
    last = changes[-1] if changes else None
    frozen = any(isinstance(e, Freeze) for e in changes)
    return last if frozen and isinstance(last, Unfreeze) else None


_Registrations: TypeAlias = Mapping[ModuleIndex, Sequence[Registration]]
"""Module → what was registered in it, in order."""


def replaced_frozen(trace: Trace) -> dict[ParameterIndex, Registration]:
    """Return index of a parameter → the registration that put it in the place of a frozen one.

    The frozen parameter, or the module that contained it, was in the same attribute before.
    """
    slots: dict[tuple[ModuleIndex, str], list[Registration]] = {}
    within: dict[ModuleIndex, list[Registration]] = {}
    for event in trace.events_of(Registration):
        slots.setdefault((event.module, event.name), []).append(event)
        within.setdefault(event.module, []).append(event)
    frozen = {e.parameter: e.number for e in reversed(trace.events) if isinstance(e, Freeze)}
    replacements: dict[ParameterIndex, Registration] = {}
    for slot in slots.values():
        last = slot[-1]
        earlier = [e for e in slot if _occupant(e) != _occupant(last)]
        if not earlier:
            continue
        keys = {key for e in earlier for key in _keys_of(within, e)}
        if not any(frozen.get(key, last.number) < last.number for key in keys):
            continue
        for parameter in _parameters_of(trace, last):
            replacements.setdefault(parameter.index, last)
    return replacements


def _occupant(event: Registration) -> tuple[ParameterKey | None, ModuleIndex | None]:
    """Return the parameter or the module that a registration put into its slot."""
    match event:
        case ParameterRegistration():
            return event.parameter, None
        case ChildRegistration():
            return None, event.child
    raise AssertionError(event)


def _keys_of(within: _Registrations, event: Registration) -> set[ParameterKey]:
    key, child = _occupant(event)
    return _keys_below(within, child) if child is not None else set() if key is None else {key}


def _parameters_of(trace: Trace, event: Registration) -> Sequence[Parameter]:
    key, child = _occupant(event)
    if child is None:
        return [trace.by_key[key]] if key in trace.by_key else []
    module = trace.modules[child]
    return trace.below(module) if module.in_tree else []


def _keys_below(within: _Registrations, module: ModuleIndex) -> set[ParameterKey]:
    """Return the keys of all parameters ever registered in a module or in one below it."""
    keys: set[ParameterKey] = set()
    seen, pending = {module}, [module]
    while pending:
        for event in within.get(pending.pop(), ()):
            if isinstance(event, ParameterRegistration):
                keys.add(event.parameter)
            elif isinstance(event, ChildRegistration) and event.child not in seen:
                seen.add(event.child)
                pending.append(event.child)
    return keys


def _applied(trace: Trace, parameter: Parameter) -> bool:
    """Return True if a recorded step applied a gradient other than zero to a parameter."""
    steps = trace.training.steps if trace.training is not None else ()
    contents = (step.content.get(parameter.key) for step in steps)
    return any(c is not None and c.nonzero and c.trainable and c.lr != 0 for c in contents)


def _requires_grad(trace: Trace, parameter: Parameter) -> bool:
    """Return True if a parameter requires grad where the gradient is computed.

    That is in the steps, and without steps after the forward.
    """
    if trace.training is not None and trace.training.backwards:
        return parameter.requires_grad
    return parameter.requires_grad and parameter.requires_grad_after


def _frozen(trace: Trace, parameter: Parameter) -> Outcome:
    freeze = next((e for e in reversed(parameter.flag_changes) if isinstance(e, Freeze)), None)
    if freeze is not None:
        return _at(trace, OutcomeKind.FROZEN, "frozen", freeze.site)
    first = parameter.created_by
    site = first.site if first is not None else trace.modules[parameter.module].registered_at
    return _at(trace, OutcomeKind.FROZEN, "frozen" if first is None else "created with requires_grad=False", site)


def _not_in_optimizer(flow: Flow, parameter: Parameter) -> Outcome:
    trace = flow.trace
    replaced = next((s for s in flow.replaced if any(p is parameter for p in s.now)), None)
    if replaced is not None:
        optimizer = trace.optimizers[replaced.optimizer]
        why = f"replaced, and {optimizer_label(optimizer)} still holds the old tensor"
        return _at(trace, OutcomeKind.NOT_IN_OPTIMIZER, why, optimizer.site)
    optimizer = nearest_optimizer(trace, parameter)
    several = len(trace.optimizers) > 1
    why = "not in any optimizer" if several else f"not in {optimizer_label(optimizer)}"
    return _at(trace, OutcomeKind.NOT_IN_OPTIMIZER, why, optimizer.site)


def _trains(trace: Trace, parameter: Parameter) -> Outcome:
    holders = [trace.optimizers[number] for number, _ in parameter.groups]
    why = "reached by gradient" + (
        f" and updated by {optimizer_label(holders[0])}" if holders else "; no optimizer is given"
    )
    if (unfreeze := unfrozen_by(parameter)) is not None:
        return _at(trace, OutcomeKind.TRAINS, f"unfrozen after a freeze, {why}", unfreeze.site)
    if not holders:
        return _at(trace, OutcomeKind.TRAINS, why, made_site(trace, parameter))
    return _in_group(trace, OutcomeKind.TRAINS, why, parameter.groups[0])


def _without_gradient(flow: Flow, parameter: Parameter) -> Outcome:
    term = next((t for t in flow.left_out if parameter in t.parameters), None)
    if term is not None:
        return _at(flow.trace, OutcomeKind.NO_GRADIENT, "the loss that trains it is never added", term.computed)
    cuts = [cut for cut in flow.cuts if parameter in cut.starved]
    cut = next((c for c in cuts if c.kind is not CutKind.NONDIFFERENTIABLE), cuts[0] if cuts else None)
    if cut is None:
        return Outcome(OutcomeKind.NO_GRADIENT, "no gradient returns from the loss", None)
    return Outcome(OutcomeKind.NO_GRADIENT, cut.clause, cut.location, cut.site, by=cut.name, cut=cut)


def _unused(flow: Flow, parameter: Parameter) -> Outcome:
    trace = flow.trace
    dropped = flow.dropped_at(parameter)
    if parameter.index in flow.steering:
        site = made_site(trace, parameter, flow.partly_used) if dropped is None else dropped.site
        return _at(trace, OutcomeKind.UNUSED, "only steers control flow", site)
    if dropped is not None:
        return _at(trace, OutcomeKind.UNUSED, f"the result of {dropped.name} is dropped", dropped.site)
    why = "without effect on the loss" if flow.readers(parameter) else "unused in this forward"
    return _at(trace, OutcomeKind.UNUSED, why, made_site(trace, parameter, flow.partly_used))


def _why_unknown(flow: Flow, parameter: Parameter) -> str | None:
    trace = flow.trace
    index = parameter.index
    if flow.waits_for_step:
        return "the training setup has a step but no loss"
    if not trace.roots:
        return "no forward was run"
    if index in flow.reached or index in flow.starved or index in flow.unused:
        return None
    if index in flow.undecided:
        return f"the values left torch, and {flow.why_undecided}"
    if parameter.written:
        return "the forward overwrites the value"
    return "this loss reaches no parameter of its optimizer" if parameter.groups else "this loss does not reach it"


def _still_group(trace: Trace, parameter: Parameter) -> tuple[OptimizerIndex, int] | None:
    """Return a group of a parameter if all its groups have learning rate 0 and no scheduler."""
    groups = [(trace.optimizers[number].groups[index], (number, index)) for number, index in parameter.groups]
    if all(group.lr == 0 and not group.scheduled for group, _ in groups):
        return groups[0][1]
    return None


def _at(trace: Trace, kind: OutcomeKind, why: str, site: SiteId) -> Outcome:
    return Outcome(kind, why, trace.location(site), site)


def _in_group(trace: Trace, kind: OutcomeKind, why: str, held: tuple[OptimizerIndex, int]) -> Outcome:
    optimizer = trace.optimizers[held[0]]
    group = optimizer.groups[held[1]]
    return Outcome(kind, why, group_location(trace, optimizer, group), group.site)
