"""GL109 aliased-network."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable, Iterator, Sequence

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity, Trace
from gradlint.source import copies_own_value, function_of, networks_copied
from gradlint.traces import (
    ADD,
    DETACHED_VALUES,
    DIVIDE,
    MULTIPLY,
    NO_SITE,
    SAME_VALUES,
    ChildRegistration,
    ModuleIndex,
    ParameterIndex,
    ParameterWrite,
    SiteId,
    ValueId,
)

_SHARES = DETACHED_VALUES | {"alias"}
_COPIES = SAME_VALUES - _SHARES
_AVERAGES = MULTIPLY | DIVIDE | ADD | {"lerp"}


class AliasedNetwork(Rule):
    """Two names, one network.

    ## What it does
    Finds copies of a network to itself (`target.load_state_dict(policy.state_dict())` where `target` is `policy`). Also
    finds networks with one name that is declared frozen and another one that trains.

    ## Why it is bad
    A target network, teacher or momentum encoder that is the same object follows every step at once. The method relies
    on a delay, which is missing.

    ## Example
    ```python
    import torch
    from torch import nn

    class Agent(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.policy = net
            self.target = net
            self.target.load_state_dict(self.policy.state_dict())

        def forward(self, x):
            return self.policy(x)

    def build():
        return {"model": Agent(nn.Linear(4, 2)), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import copy
    import torch
    from torch import nn

    class Agent(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.policy = net
            self.target = copy.deepcopy(net).requires_grad_(False)
            self.target.load_state_dict(self.policy.state_dict())

        def forward(self, x):
            return self.policy(x)

    def build():
        return {"model": Agent(nn.Linear(4, 2)), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Sharing that no other line contradicts is not reported, nor is a single weight that two layers share. Whole copies
    are recognized (`load_state_dict`, `copy_`), and averages of two networks (`lerp_`, `mul_` and `add_`,
    `a * tau + b * (1 - tau)`), but no other arithmetic.
    Where the model has no two names for the network, the code of the copy must name two variables.

    ## References
    https://docs.python.org/3/library/copy.html
    """

    code = "GL109"
    name = "aliased-network"
    severity = Severity.ERROR

    MESSAGE = "{names} are the same network, {parameters}: {reason}."
    COPIED_TO_ITSELF = "its weights are copied onto themselves"
    DECLARED_FROZEN = "it is declared frozen under one of its names, but trains"
    TWO_OPTIMIZERS = "two optimizers update it"
    FIX = "Give the second name a network of its own: copy.deepcopy(network)."
    FIX_TWO_OPTIMIZERS = "Build a network for each name, or give copy.deepcopy(network) to the second."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        copied: dict[ModuleIndex, tuple[Module, ParameterWrite]] = {}
        by_variables: list[tuple[ParameterWrite, Parameter]] = []
        for parameter in trace.parameters:
            for event in _copies_of_itself(context, parameter):
                shared = _shared_network(trace, parameter)
                if shared is not None and _between(trace, shared, event):
                    copied.setdefault(shared.number, (shared, event))
                else:
                    by_variables.append((event, parameter))
        for _, copies in context.by_place(copied.values(), lambda entry: entry[1].site):
            # a part of the network may have further names
            module, event = min(copies, key=lambda entry: len(_names(entry[0], trace.below(entry[0])[0])))
            keys = {p.key for part, _ in copies for p in trace.below(part)}
            yield self._finding(context, module, trace.with_keys(keys), event, self.COPIED_TO_ITSELF)
        yield from self._by_variables(context, by_variables)
        yield from self._two_optimizers(context, copied)
        declared: list[tuple[ModuleIndex, Parameter]] = []
        for parameter in trace.parameters:
            frozen = [
                any(fnmatch.fnmatchcase(n, g) for n in parameter.spelled(alias) for g in trace.setup.frozen)
                for alias in parameter.aliases
            ]
            if any(frozen) and not all(frozen) and parameter.requires_grad:
                shared = _shared_network(trace, parameter)
                if shared is not None and shared.number not in copied:
                    declared.append((shared.number, parameter))
        for number, members in context.by_place(declared, lambda item: item[0]):
            parameters = [parameter for _, parameter in members]
            yield self._finding(context, trace.modules[number], parameters, None, self.DECLARED_FROZEN)

    def _by_variables(self, context: Context, copies: list[tuple[ParameterWrite, Parameter]]) -> Iterator[Finding]:
        """Yield a finding for each network that one copy names by two variables."""
        reported: set[ParameterIndex] = set()
        for site, writes in context.by_place(copies, lambda write: write[0].site):
            parameters = context.trace.with_keys({parameter.key for _, parameter in writes})
            names = _variables(context, site, {event.number for event, _ in writes})
            if names is None or reported.issuperset(p.index for p in parameters):
                continue
            reported.update(p.index for p in parameters)
            yield context.finding(
                self,
                self._message(context, names, parameters, self.COPIED_TO_ITSELF),
                at=site,
                parameters=parameters,
                related=context.callers(site, limit=1),
                fix=Fix(self.FIX),
            )

    def _two_optimizers(self, context: Context, copied: Container[int]) -> Iterator[Finding]:
        """Yield a finding for each network with several names and an optimizer for each."""
        trace = context.trace
        entries: dict[int, list[str]] = {}
        for name, number in trace.setup.models:
            entries.setdefault(number, []).append(name)
        for module in trace.modules:
            names = entries.get(module.number, [])
            if len(names) < 2 or module.number in copied:
                continue
            parameters = trace.below(module)
            keys = {p.key for p in parameters}
            holders = [o for o in trace.optimizers if keys <= o.keys]
            if not keys or len(holders) < 2:
                continue
            yield context.finding(
                self,
                self._message(context, names, parameters, self.TWO_OPTIMIZERS),
                at=holders[1].site,
                parameters=parameters,
                aliases=True,
                related=[context.related("the first optimizer is created here", holders[0].site)],
                fix=Fix(self.FIX_TWO_OPTIMIZERS),
            )

    def _message(self, context: Context, names: Iterable[str], parameters: Sequence[Parameter], reason: str) -> str:
        return self.MESSAGE.format(names=" and ".join(names), parameters=context.names(parameters), reason=reason)

    def _finding(
        self, context: Context, module: Module, parameters: list[Parameter], event: ParameterWrite | None, reason: str
    ) -> Finding:
        places: dict[tuple[ModuleIndex, str], ChildRegistration] = {}
        for e in context.trace.events_of(ChildRegistration):
            if e.child == module.number and context.trace.modules[e.module].in_tree:
                places[e.module, e.name] = e
        first, second = [*places.values(), None, None][:2]
        where = next((e.site for e in (second, event) if e is not None), NO_SITE)
        return context.finding(
            self,
            self._message(context, sorted(_names(module, context.trace.below(module)[0])), parameters, reason),
            at=where,
            parameters=parameters,
            aliases=True,
            related=[
                context.related("the first name is assigned here", first),
                context.related("copied onto itself here", event),
                *context.callers(where, limit=1),
            ],
            fix=Fix(self.FIX),
        )


def _copies_of_itself(context: Context, parameter: Parameter) -> Iterator[ParameterWrite]:
    """Yield the writes of user code that copied or averaged a parameter with itself."""
    writes = parameter.writes
    for before, event in zip([None, *writes], writes, strict=False):
        if event.converts or not context.by_user(event.site):
            continue
        if _from_itself(context.trace, parameter, event, before) and not _is_conversion(context, event):
            yield event


def _is_conversion(context: Context, event: ParameterWrite) -> bool:
    """Return True if user code converts a parameter in place: ``p.data = p.data.half()``."""
    frame = context.trace.frame(event.site)
    function = function_of(frame.code) if frame is not None and event.loading < 0 else None
    if frame is None or function is None or event.op_name not in ("data", "copy_"):
        return False
    source = context.trace.made_by(context.trace.ops[event.op].inputs[1])
    is_average = source is not None and source.name in _AVERAGES
    return not is_average and copies_own_value(function.module, frame.location)


def _variables(context: Context, site: SiteId, known: Container[int]) -> tuple[str, str] | None:
    """Return the two variables that the code at a site names for one network.

    None if it also copies between other networks: `known` are the numbers of the events that copy to themselves.
    """
    trace = context.trace
    if any(e.site == site and e.number not in known for e in trace.events_of(ParameterWrite)):
        return None
    frame = trace.frame(site)
    function = function_of(frame.code) if frame is not None else None
    return networks_copied(function.module, frame.location) if frame is not None and function is not None else None


def _from_itself(trace: Trace, parameter: Parameter, event: ParameterWrite, before: ParameterWrite | None) -> bool:
    """Return True if a write copied a parameter to itself, or averaged it with itself.

    `before` is the last write before this one: copies that are older hold another value.
    """
    name, sources = _written_from(trace, parameter, event)
    if not sources:
        return False
    times = _reads(trace, sources[0], parameter, -1 if before is None else trace.ops[before.op].outputs[0])
    if name in ("copy_", "lerp_", "data"):
        return times not in (None, 1)
    scaled = before is not None and before.op_name in ("mul_", "__imul__", "_foreach_mul_")
    return name in ("add_", "__iadd__") and scaled and times is not None


def _written_from(trace: Trace, parameter: Parameter, event: ParameterWrite) -> tuple[str, Sequence[ValueId]]:
    """Return the name of an op that wrote to a parameter, and the other values that it read."""
    op = trace.ops[event.op]
    if not event.op_name.startswith("_foreach_"):
        return event.op_name, op.inputs[1:]
    count = len(op.outputs)
    position = next((n for n, value in enumerate(op.outputs) if trace.owners.get(value) == parameter.index), count)
    return event.op_name.removeprefix("_foreach_"), op.inputs[count + position : count + position + 1]


def _reads(trace: Trace, value: ValueId, parameter: Parameter, since: int) -> int | None:
    """Return how often a parameter occurs in an average, 0 for a plain copy of it.

    None if the value is not made by scaling and adding, or from a copy that is older than the value `since`.
    """
    parts: dict[ValueId, Sequence[ValueId]] = {}
    pending = [value]
    while pending:
        part = pending.pop()
        if trace.owners.get(part) == parameter.index:
            parts[part] = ()
            continue
        op = trace.made_by(part) if part not in trace.owners else None
        if op is None or not (op.name in _SHARES | _AVERAGES or (op.name in _COPIES and part > since)):
            return None
        parts[part] = op.inputs if op.name in _AVERAGES else op.inputs[:1]
        pending += (source for source in parts[part] if source not in parts)
    times: dict[ValueId, int] = {}
    for part, sources in sorted(parts.items()):
        is_average = len(sources) > 0 and trace.ops[trace.values[part].producer].name in _AVERAGES
        times[part] = sum(max(times[s], is_average) for s in sources)
    return times[value]


def _between(trace: Trace, shared: Module, event: ParameterWrite) -> bool:
    """Return True if a copy was between names of a network.

    A larger model that loads its own state is another case.
    """
    return event.loading < 0 or any(m is shared for m in trace.around(event.loading))


def _shared_network(trace: Trace, parameter: Parameter) -> Module | None:
    """Return the widest module around a parameter with several names; None for a tied weight."""
    if len(trace.holders[parameter.index]) > 1:
        return None
    shared = None
    for module in trace.around(parameter.module):
        if len(_names(module, parameter)) < 2 or not all(len(p.aliases) > 1 for p in trace.below(module)):
            break
        shared = module
    return shared


def _names(module: Module, parameter: Parameter) -> list[str]:
    """Return the names of a module, derived from those of a parameter in it."""
    inside = next((a[len(module.fqn) :] for a in parameter.aliases if a.startswith(f"{module.fqn}.")), None)
    if inside is None:
        return [module.fqn]
    return [a.removesuffix(inside) for a in parameter.aliases if a.endswith(inside)]
