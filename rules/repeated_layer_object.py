"""GL108 repeated-layer-object."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Module, Parameter, Rule, Severity
from gradlint.rulekit import argument_list_location, repeats_a_call
from gradlint.traces import ChildRegistration, ModuleIndex, SiteId


class RepeatedLayerObject(Rule):
    """One layer object in several places of a container.

    ## What it does
    Finds a module with trainable parameters at several places of one container, if the output of one place feeds the
    next. Also finds a container of `[nn.Linear(4, 4)] * 3`, however its places run: the repeated call has no name, so
    nothing else can share the layer. Also finds two containers of the same child objects, one feeding the other (a
    decoder built from the encoder's list).

    ## Why it is bad
    `[layer] * 3` repeats the object: the model has one set of weights instead of three. Norm layers also mix the
    statistics of all places.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(*[nn.Linear(4, 4)] * 3, nn.Linear(4, 2))
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(*[nn.Linear(4, 4) for _ in range(3)], nn.Linear(4, 2))
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    A layer that also has a name outside of the container is taken for shared on purpose, as is one that one line calls
    repeatedly. Places that do not feed each other may share a layer that is repeated by its name.

    ## References
    https://docs.python.org/3/faq/programming.html#how-do-i-create-a-multidimensional-list
    """

    code = "GL108"
    name = "repeated-layer-object"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    MESSAGE = "{names} are one object and run one after the other: they share {parameters}."
    MESSAGE_PARALLEL = "{names} are one object, because the list repeats one call: they share {parameters}."
    MESSAGE_CONTAINERS = "{names} contain the same layer objects, and one feeds the other: they share {parameters}."
    RELATED = "added to the container here"
    FIX = "Create one layer for each place: [layer() for _ in range(n)], or copy.deepcopy the list."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        places_by_child: dict[ModuleIndex, list[tuple[Module, str, SiteId]]] = {}
        for event in trace.events_of(ChildRegistration):
            holder = trace.modules[event.module]
            if holder.in_tree and (event.name, event.child) in holder.children:
                places_by_child.setdefault(event.child, []).append((holder, event.name, event.site))
        done: set[tuple[ModuleIndex, ...]] = set()
        for number, places in places_by_child.items():
            places = list({(h.number, n): (h, n, s) for h, n, s in places}.values())
            holders = tuple(sorted({h.number for h, _, _ in places}))
            parameters = _trainable(context, trace.modules[number])
            if len(places) < 2 or not parameters or holders in done or not context.by_user(places[-1][2]):
                continue
            if len(holders) == 1:
                if not _is_container(places[0][0]):
                    continue
                if _feeds(context, self._calls(context, number)):
                    message = self.MESSAGE
                elif repeats_a_call(trace, places[-1][2]):
                    message = self.MESSAGE_PARALLEL
                else:
                    continue
                names = ", ".join(f"{h.fqn}.{n}".removeprefix(".") for h, n, _ in places)
            elif len(holders) == 2:
                done.add(holders)
                if not self._same_children(context, holders):
                    continue
                first, second = (trace.modules[n] for n in holders)
                parameters = _trainable(context, first)
                message, names = self.MESSAGE_CONTAINERS, f"{first.fqn} and {second.fqn}"
            else:
                continue
            site = places[-1][2]
            yield context.finding(
                self,
                message.format(names=names, parameters=context.names(parameters)),
                at=argument_list_location(trace, site) or site,
                parameters=parameters,
                aliases=True,
                related=[context.related(self.RELATED, site), *context.callers(site, limit=1)],
                fix=Fix(self.FIX),
            )

    def _calls(self, context: Context, number: ModuleIndex) -> list[int]:
        return [i for i, call in enumerate(context.trace.calls) if call.module == number]

    def _same_children(self, context: Context, holders: tuple[int, ...]) -> bool:
        """Return True if two containers hold the same layers, and one feeds the other."""
        first, second = (context.trace.modules[n] for n in holders)
        layers = [
            [child for _, child in holder.children if context.trace.below(context.trace.modules[child])]
            for holder in (first, second)
        ]
        if layers[0] != layers[1] or not (_is_container(first) and _is_container(second)):
            return False
        return _feeds(context, sorted([*self._calls(context, first.number), *self._calls(context, second.number)]))


def _trainable(context: Context, module: Module) -> list[Parameter]:
    return [p for p in context.trace.below(module) if p.requires_grad]


def _is_container(module: Module) -> bool:
    return not {"Sequential", "ModuleList", "ModuleDict"}.isdisjoint(module.type.bases)


def _feeds(context: Context, calls: list[int]) -> bool:
    """Return True if the output of one of the calls is an input of another."""
    trace = context.trace
    inside: dict[int, int] = {}
    for number, call in enumerate(trace.calls):
        inside[number] = number if number in calls else inside.get(call.parent, -1)
    tainted: dict[int, set[int]] = {}
    for op in trace.ops[trace.forward_start :]:
        here = inside.get(op.call, -1)
        origin: set[int] = set()
        for value in op.inputs:
            origin |= tainted.get(value, set())
        if here >= 0 and origin - {here}:
            return True
        if here >= 0:
            origin = origin | {here}
        for output in op.outputs:
            tainted[output] = origin
    return False
