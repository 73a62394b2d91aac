"""GL801 wrapper-trained-around."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gradlint import Context, Finding, Fix, Location, Module, ModuleCall, Parameter, Rule, Severity, Trace
from gradlint.source import function_of
from gradlint.traces import ChildRegistration, SiteId

_WRAPPERS = frozenset("DataParallel DistributedDataParallel FullyShardedDataParallel".split())


class WrapperTrainedAround(Rule):
    """A wrapper for parallel training whose forward never runs.

    ## What it does
    Finds wrappers for parallel training (`DistributedDataParallel`, `DataParallel`, `FullyShardedDataParallel`) whose
    own forward runs at no recorded step. Their parameters get gradient and are stepped. The training
    calls the network inside, as in `ddp.module(x)`.

    ## Why it is bad
    The forward of the wrapper is what spreads the work. Without it `DistributedDataParallel` never averages gradient:
    each process trains a network of its own, and they drift apart. `DataParallel` leaves all work to one device.

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
    averages itself is not recognized.

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
    FIX = "Call the wrapper itself: model(x) in place of model.module(x)."

    def check(self, context: Context) -> Iterator[Finding]:
        trace, training = context.trace, context.training
        ran = {call.module for call in trace.calls if call.start >= training.start and _has_gradient(trace, call)}
        inner: dict[int, list[ChildRegistration]] = {}
        for event in trace.events_of(ChildRegistration):
            inner.setdefault(event.module, []).append(event)
        trained = {key for step in training.steps for key in step.content}
        for module in trace.modules:
            if module.type.name not in _WRAPPERS or not module.type.home.startswith("torch.") or module.number in ran:
                continue
            registered = inner.get(module.number, [])
            numbers = [number for _, number in module.children] or [event.child for event in registered[-1:]]
            parameters = [p for n in numbers for p in trace.below(trace.modules[n]) if p.key in trained]
            call = _call_inside(context, numbers, parameters)
            if call is not None:
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
