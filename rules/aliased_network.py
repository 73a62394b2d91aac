"""GL109 aliased-network."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Module, Parameter, Rule, Severity

_PASSES_ON = frozenset(("detach", "data", "alias", "clone", "to", "cpu", "cuda", "float", "contiguous"))


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
    Sharing that nothing contradicts is not judged. Copies are recognised as whole ones (`load_state_dict`, `copy_`) and
    as averages of two networks (`lerp_`, `mul_` and `add_`, `a * tau + b * (1 - tau)`), not as arithmetic of any other
    kind.

    ## References
    https://docs.python.org/3/library/copy.html
    """

    code = "GL109"
    name = "aliased-network"
    severity = Severity.ERROR

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        found: dict[int, tuple[Module, Event]] = {}
        for parameter in trace.parameters:
            if len(parameter.aliases) < 2 or not parameter.in_tree:
                continue
            for event in parameter.history:
                if event.kind == "write" and context.by_user(event.site) and _from_itself(context, parameter, event):
                    shared = _shared_module(context, parameter, event)
                    if shared is not None:
                        found.setdefault(shared.number, (shared, event))
        for module, event in found.values():
            parameters = [p for p in trace.below(module) if len(p.aliases) > 1]
            yield self._finding(
                context, module, parameters, event, "this copy between them is from the network to itself"
            )
        told = {m.number for m, _ in found.values()}
        yield from self._two_optimizers(context, told)
        declared: dict[int, list[Parameter]] = {}
        for parameter in trace.parameters:
            frozen = [any(fnmatch.fnmatchcase(n, g) for g in trace.setup.frozen) for n in parameter.aliases]
            if any(frozen) and not all(frozen) and parameter.requires_grad and parameter.module not in found:
                declared.setdefault(_top_alias(context, parameter).number, []).append(parameter)
        for number, parameters in declared.items():
            yield self._finding(context, trace.modules[number], parameters, None, "one of its names is declared frozen")

    def _two_optimizers(self, context: Context, told: set[int]) -> Iterator[Finding]:
        """Entries of the set-up's models that are one object, while each was given an optimizer of its own."""
        trace = context.trace
        models = trace.setup.model if isinstance(trace.setup.model, dict) else {}
        entries: dict[int, list[str]] = {}
        for name, model in models.items():
            entries.setdefault(id(model), []).append(name)
        for module in trace.modules:
            names = entries.get(id(module.module), [])
            keys = {p.key for p in trace.below(module)}
            holders = [o for o in trace.optimizers if keys and keys <= {k for g in o.groups for k in g.keys}]
            if len(names) < 2 or module.number in told or len(holders) < 2:
                continue
            yield context.finding(
                self,
                f"{' and '.join(names)} are one network, with {context.names(trace.below(module))}: two optimizers "
                "step it, as if there were two.",
                at=holders[1].site,
                parameters=trace.below(module),
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
        events = list(places.values())
        made = next((e for p in parameters for e in p.history if e.kind == "register"), None)
        where = events[1].site if len(events) > 1 else event.site if event else made.site if made else -1
        names = sorted({a[: -len(parameters[0].fqn) + len(module.fqn)] for a in parameters[0].aliases})
        return context.finding(
            self,
            f"{' and '.join(names)} are one network, with {context.names(parameters)}: {why}.",
            at=where,
            parameters=parameters,
            aliases=True,
            related=[
                context.related("the first name is given here", events[0] if len(events) > 1 else None),
                context.related("copied to itself here", event),
                *context.callers(where, limit=1),
            ],
            fix=Fix("Give the second name a network of its own: copy.deepcopy(network)."),
        )


def _from_itself(context: Context, parameter: Parameter, event: Event) -> bool:
    """Whether a write put a parameter's own value into it, or mixed it with itself (an average of two networks)."""
    name, sources = event.data["name"], event.data["sources"]
    if name in ("copy_", "lerp_", "data"):
        if not sources:
            return bool(name != "data")  # the only tensor that was read is the one that was written
        mixed = [_reads(context, value, parameter) for value in sources]
        return None not in mixed and (all(m == 0 for m in mixed) or any(m > 1 for m in mixed if m))
    if name in ("add_", "__iadd__"):
        before = [e for e in parameter.history if e.kind == "write" and e.number < event.number]
        scaled = bool(before) and before[-1].data["name"] in ("mul_", "__imul__")
        return scaled and all(_reads(context, value, parameter) is not None for value in sources)
    return False


def _reads(context: Context, value: int, parameter: Parameter) -> int | None:
    """How often a value was made from a parameter by scaling and adding, 0 for its plain copy; None if it has any other
    part."""
    trace = context.trace
    if trace.owners.get(value) == parameter.index:
        return 0
    producer = trace.values[value].producer
    if producer < 0 or trace.owners.get(value) is not None or not trace.ops[producer].inputs:
        return None
    op = trace.ops[producer]
    if op.name in _PASSES_ON:
        return _reads(context, op.inputs[0], parameter)
    if op.name not in _AVERAGES:
        return None
    parts = [_reads(context, v, parameter) for v in op.inputs]
    return None if None in parts else sum(p or 1 for p in parts if p is not None)


def _shared_module(context: Context, parameter: Parameter, event: Event) -> Module | None:
    """The network under two names that a copy was between; None for a model that was loaded from its own state, and
    for a weight that is tied on purpose."""
    trace = context.trace
    shared = _top_alias(context, parameter)
    if not all(len(p.aliases) > 1 for p in trace.below(shared)):
        return None
    loading: int = event.data["loading"]
    if loading < 0:
        return shared if event.data["name"] in ("copy_", "lerp_") or len(trace.below(shared)) > 1 else None
    above = loading
    while above >= 0:
        if above == shared.number:
            return shared
        above = trace.modules[above].parent
    return None


def _top_alias(context: Context, parameter: Parameter) -> Module:
    """The widest module around a parameter that stands under several names."""
    trace = context.trace
    module = trace.modules[parameter.module]
    while module.parent >= 0:
        parent = trace.modules[module.parent]
        mine = trace.below(parent)
        prefixes = {a[: -len(parameter.fqn) + len(parent.fqn)] for a in parameter.aliases}
        if not parent.fqn or len(prefixes) < 2 or not all(len(p.aliases) > 1 for p in mine):
            break
        module = parent
    return module
