"""GL109 aliased-network."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterator

from gradlint import Context, Event, Finding, Fix, Module, Parameter, Rule, Severity, Trace

_SHARES = frozenset(("detach", "data", "alias"))
_COPIES = frozenset(("clone", "to", "cpu", "cuda", "float", "contiguous"))
_AVERAGES = frozenset("mul mul_ __mul__ __rmul__ div __truediv__ add __add__ __radd__ lerp".split())


class AliasedNetwork(Rule):
    """Two names, one network.

    ## What it does
    Finds copies between networks whose source is their destination (`target.load_state_dict(policy.state_dict())`
    where `target` is `policy`), and networks of which one name is declared frozen while another one trains.

    ## Why it is bad
    A target network, teacher or momentum encoder that is the same object follows every step at once: the delay that
    the method lives on is not there.

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
    Sharing that nothing contradicts is not judged, nor is a single weight that two layers share. Copies are recognised
    as whole ones (`load_state_dict`, `copy_`) and as averages of two networks (`lerp_`, `mul_` and `add_`,
    `a * tau + b * (1 - tau)`), not as arithmetic of any other kind.

    ## References
    https://docs.python.org/3/library/copy.html
    """

    code = "GL109"
    name = "aliased-network"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        copied: dict[int, tuple[Module, Event]] = {}
        for parameter in trace.parameters:
            writes = [e for e in parameter.history if e.kind == "write"]
            for before, event in zip([None, *writes], writes, strict=False):
                if context.by_user(event.site) and _from_itself(trace, parameter, event, before):
                    shared = _shared_network(trace, parameter)
                    if shared is not None and _between(trace, shared, event):
                        copied.setdefault(shared.number, (shared, event))
        for module, event in copied.values():
            yield self._finding(
                context, module, trace.below(module), event, "this copy between them is from the network to itself"
            )
        yield from self._two_optimizers(context, copied)
        declared: dict[int, list[Parameter]] = {}
        for parameter in trace.parameters:
            frozen = [any(fnmatch.fnmatchcase(n, g) for g in trace.setup.frozen) for n in parameter.aliases]
            if any(frozen) and not all(frozen) and parameter.requires_grad:
                shared = _shared_network(trace, parameter)
                if shared is not None and shared.number not in copied:
                    declared.setdefault(shared.number, []).append(parameter)
        for number, parameters in declared.items():
            yield self._finding(context, trace.modules[number], parameters, None, "one of its names is declared frozen")

    def _two_optimizers(self, context: Context, told: Container[int]) -> Iterator[Finding]:
        """Entries of the set-up's models that are one object, while each was given an optimizer of its own."""
        trace = context.trace
        entries: dict[int, list[str]] = {}
        for name, number in trace.setup.models:
            entries.setdefault(number, []).append(name)
        for module in trace.modules:
            names = entries.get(module.number, [])
            if len(names) < 2 or module.number in told:
                continue
            parameters = trace.below(module)
            keys = {p.key for p in parameters}
            holders = [o for o in trace.optimizers if keys <= {k for g in o.groups for k in g.keys}]
            if not keys or len(holders) < 2:
                continue
            yield context.finding(
                self,
                f"{' and '.join(names)} are one network, with {context.names(parameters)}: two optimizers "
                "step it, as if there were two.",
                at=holders[1].site,
                parameters=parameters,
                aliases=True,
                related=[context.related("the first optimizer is made here", holders[0].site)],
                fix=Fix("Build a network for each name, or give copy.deepcopy(network) to the second."),
            )

    def _finding(
        self, context: Context, module: Module, parameters: list[Parameter], event: Event | None, why: str
    ) -> Finding:
        places: dict[tuple[int, str], Event] = {}
        for e in context.trace.events_of("register"):
            if e.data.get("child") == module.number and context.trace.modules[e.data["module"]].in_tree:
                places[e.data["module"], e.data["name"]] = e
        first, second = [*places.values(), None, None][:2]
        where = next((e.site for e in (second, event) if e is not None), -1)
        return context.finding(
            self,
            f"{' and '.join(sorted(_names(module, parameters[0])))} are one network, with "
            f"{context.names(parameters)}: {why}.",
            at=where,
            parameters=parameters,
            aliases=True,
            related=[
                context.related("the first name is given here", first),
                context.related("copied to itself here", event),
                *context.callers(where, limit=1),
            ],
            fix=Fix("Give the second name a network of its own: copy.deepcopy(network)."),
        )


def _from_itself(trace: Trace, parameter: Parameter, event: Event, before: Event | None) -> bool:
    """Whether a write put a parameter's own value into it, or mixed it with itself (an average of two networks).

    `before` is the last write before this one: copies that are older hold another value.
    """
    name, given = event.data["name"], trace.ops[event.op].inputs[1:]
    if not given:
        return False
    times = _reads(trace, given[0], parameter, -1 if before is None else trace.ops[before.op].outputs[0])
    if name in ("copy_", "lerp_", "data"):
        return times not in (None, 1)
    scaled = before is not None and before.data["name"] in ("mul_", "__imul__")
    return name in ("add_", "__iadd__") and scaled and times is not None


def _reads(trace: Trace, value: int, parameter: Parameter, since: int) -> int | None:
    """How often a value was made from a parameter by scaling and adding, 0 for its plain copy; None if it has any other
    part, or is made of a copy from before the value `since`."""
    owner = trace.owners.get(value)
    if owner is not None:
        return 0 if owner == parameter.index else None
    op = trace.made_by(value)
    if op is None:
        return None
    if op.name in _SHARES or (op.name in _COPIES and value > since):
        return _reads(trace, op.inputs[0], parameter, since)
    if op.name not in _AVERAGES:
        return None
    times = 0
    for part in op.inputs:
        found = _reads(trace, part, parameter, since)
        if found is None:
            return None
        times += max(found, 1)
    return times


def _between(trace: Trace, shared: Module, event: Event) -> bool:
    """Whether a copy was between the names of a network: not one that loaded a larger model from its own state."""
    loading: int = event.data["loading"]
    return loading < 0 or any(m is shared for m in trace.around(loading))


def _shared_network(trace: Trace, parameter: Parameter) -> Module | None:
    """The widest module around a parameter that stands under several names; None for a weight that is tied."""
    if sum(parameter.index in m.parameters for m in trace.modules) > 1:
        return None
    shared = None
    for module in trace.around(parameter.module):
        if len(_names(module, parameter)) < 2 or not all(len(p.aliases) > 1 for p in trace.below(module)):
            break
        shared = module
    return shared


def _names(module: Module, parameter: Parameter) -> list[str]:
    """The names of a module by those of a parameter in it."""
    inside = parameter.fqn[len(module.fqn) :]
    return [a.removesuffix(inside) for a in parameter.aliases if a.endswith(inside)]
