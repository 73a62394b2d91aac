"""GL801 wrapper-trained-around."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from gradlint import (
    Context,
    Event,
    Finding,
    Fix,
    Location,
    Module,
    ModuleCall,
    Parameter,
    Rule,
    Severity,
    Trace,
)
from gradlint.source import function_of
from gradlint.traces import (
    ChildRegistration,
    ParameterIndex,
    ParametersExchanged,
    SiteId,
    Unfreeze,
)

_WRAPPERS = frozenset("DataParallel DistributedDataParallel FullyShardedDataParallel".split())


class WrapperTrainedAround(Rule):
    """A wrapper for parallel training that some of the training goes past.

    ## What it does
    Finds wrappers for parallel training (`DistributedDataParallel`, `DataParallel`, `FullyShardedDataParallel`) whose
    own forward runs at no recorded step. Their parameters get gradient and are stepped. The training
    calls the network inside, as in `ddp.module(x)`.

    It also finds parameters that a `DistributedDataParallel` does not know: they are added to the network, replaced or
    unfrozen after it was wrapped.

    ## Why it is bad
    The forward of the wrapper is what spreads the work. Without it `DistributedDataParallel` never averages gradient:
    each process trains a network of its own, and they drift apart. `DataParallel` leaves all work to one device.
    `DistributedDataParallel` hooks the trainable parameters that it finds at its construction, and averages no others.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.DataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model.module(x), y).backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.DataParallel(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x, y = torch.randn(6, 4), torch.randn(6, 2)

        def step():
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()

        return {"model": model, "optimizer": optimizer, "step": step}
    ```

    ## Known limits
    A wrapper that runs at one of the recorded steps is not reported, even if others go past it. Gradient that user code
    averages itself is not recognized. A change that was made before the recording is not seen.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.parallel.DistributedDataParallel.html
    """

    code = "GL801"
    name = "wrapper-trained-around"
    severity = Severity.WARNING
    needs = frozenset({"step"})

    MESSAGE = "this call bypasses {wrapper}, whose forward never runs: {effect} {parameters}."
    RELATED = "the network is wrapped in {wrapper} here"
    EFFECT_DATA_PARALLEL = "one device does all the work for"
    EFFECT = "no process averages the gradient of"
    MESSAGE_CHANGED = (
        "{how} after the network is wrapped in DistributedDataParallel: no process averages the gradient of "
        "{parameters}."
    )
    ADDS = "this adds parameters"
    REPLACES = "this conversion replaces parameters"
    UNFREEZES = "this unfreezes parameters"
    FIX_CHANGED = "Make the change before DistributedDataParallel(network), or wrap it again after the change."
    FIX = "Call the wrapper itself: model(x) in place of model.module(x)."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        ran = {call.module for call in trace.calls if call.start >= training.start and _has_gradient(trace, call)}
        inner: dict[int, list[ChildRegistration]] = {}
        for event in trace.events_of(ChildRegistration):
            inner.setdefault(event.module, []).append(event)
        in_use = {
            event.child for number in ran for event in inner.get(number, ()) if _is_wrapper(trace.modules[number])
        }
        trained = {key for step in training.steps for key in step.content}
        for module in trace.modules:
            if not _is_wrapper(module) or module.number in ran:
                continue
            registered = inner.get(module.number, [])
            numbers = [number for _, number in module.children] or [event.child for event in registered[-1:]]
            parameters = [p for n in numbers for p in trace.below(trace.modules[n]) if p.key in trained]
            call = _call_inside(context, numbers, parameters)
            if call is not None and in_use.isdisjoint(numbers):  # a network may be wrapped anew
                yield context.finding(
                    self,
                    self.MESSAGE.format(
                        wrapper=module.type.name,
                        effect=self.EFFECT_DATA_PARALLEL if module.type.name == "DataParallel" else self.EFFECT,
                        parameters=context.names(parameters),
                    ),
                    at=_caller(trace, trace.modules[numbers[0]], call.site),
                    parameters=parameters,
                    related=[
                        context.related(self.RELATED.format(wrapper=module.type.name), event)
                        for event in registered[-1:]
                    ],
                    fix=Fix(self.FIX),
                )
        yield from self._changed(context)

    def _changed(self, context: Context) -> Iterator[Finding]:
        """Yield the findings of parameters that came into a network after it was wrapped."""
        trace = context.trace
        trained = {key for step in context.training.steps for key in step.content}
        registered = {(e.module, e.child): e for e in trace.events_of(ChildRegistration)}
        exchanged = {new: e for e in trace.events_of(ParametersExchanged) for _, new in e.exchanged}
        wrapped: dict[ParameterIndex, list[ChildRegistration]] = {}
        for event in {e.module: e for e in trace.events_of(ChildRegistration) if e.averaged is not None}.values():
            for parameter in trace.below(trace.modules[event.child]):
                wrapped.setdefault(parameter.index, []).append(event)
        found: list[tuple[Event, ChildRegistration, Parameter]] = []
        for parameter in context.flow.by_index(wrapped):
            events = wrapped[parameter.index]
            if parameter.key in trained and not any(parameter.key in (e.averaged or ()) for e in events):
                inside = _modules_inside(trace, events[-1].child, parameter)
                places = reversed([(m.parent, m.number) for m in inside])
                changes: list[Event] = [exchanged[parameter.key]] if parameter.key in exchanged else []
                changes += (registered[place] for place in places if place in registered)
                changes += parameter.registrations
                changes += (e for e in parameter.flag_changes if isinstance(e, Unfreeze))
                later = [change for change in changes if change.number > events[-1].number]
                found += ((change, events[-1], parameter) for change in later[:1])
        for _, members in context.by_place(found, lambda member: member[0].site):
            change, wrapping, _ = members[0]
            parameters = [parameter for _, _, parameter in members]
            how = self.UNFREEZES if isinstance(change, Unfreeze) else self.ADDS
            yield context.finding(
                self,
                self.MESSAGE_CHANGED.format(
                    how=self.REPLACES if isinstance(change, ParametersExchanged) else how,
                    parameters=context.names(parameters),
                ),
                at=change.site,
                parameters=parameters,
                related=[context.related(self.RELATED.format(wrapper="DistributedDataParallel"), wrapping)],
                fix=Fix(self.FIX_CHANGED),
            )


def _modules_inside(trace: Trace, network: int, parameter: Parameter) -> Iterator[Module]:
    """Yield the modules around a parameter, innermost first, that a network contains."""
    return takewhile(lambda module: module.number != network, trace.around(parameter.module))


def _is_wrapper(module: Module) -> bool:
    """Return True for one of torch's wrappers for parallel training."""
    return module.type.name in _WRAPPERS and module.type.home.startswith("torch.")


def _has_gradient(trace: Trace, call: ModuleCall) -> bool:
    """Return True if a module ran with grad mode on, by the first operation since its start."""
    return all(op.region < 0 for op in trace.ops[call.start : call.start + 1])


def _call_inside(context: Context, wrapped: Sequence[int], parameters: Sequence[Parameter]) -> ModuleCall | None:
    """Return the last call into a wrapped network before its first backward pass."""
    trace, training = context.trace, context.training
    keys = {p.key for p in parameters}
    first = next((b for b in training.backwards if not keys.isdisjoint(b.deposits)), None)
    if first is None:
        return None
    inside = {m.number for m in trace.modules if any(above.number in wrapped for above in trace.around(m.number))}
    calls = [call for call in trace.calls if training.start <= call.start < first.op and call.module in inside]
    outermost = [c for c in calls if c.parent < 0 or trace.calls[c.parent].module not in inside]
    return outermost[-1] if outermost else None


def _caller(trace: Trace, network: Module, site: SiteId) -> Location | None:
    """Return the innermost place of user code that is no method of the network itself."""
    for frame in trace.sites.chain(site):
        function = function_of(frame.code)
        if function is None or function.owner not in network.type.bases:
            return frame.location
    return trace.location(site)
