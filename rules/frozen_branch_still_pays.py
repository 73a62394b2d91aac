"""GL207 frozen-branch-still-pays."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, ModuleCall, Rule, Severity, inflect


class FrozenBranchStillPays(Rule):
    """A frozen prefix that keeps its activations for nobody.

    ## What it does
    Finds module calls whose parameters are all frozen, with nothing trainable before them, that ran with grad on and an
    input that needs grad: autograd records them although no parameter is behind.

    ## Why it is bad
    The activations are kept and the backward runs down to the input, whose gradient nobody reads.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(3, 4, requires_grad=True),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Sequential(nn.Linear(4, 8), nn.Tanh()), nn.Linear(8, 2))
        model[0].requires_grad_(False)
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent where the gradient by an input is asked for (`torch.autograd.grad`), where nothing of the model trains (an
    image that is optimised through it), and under checkpointing, which needs it.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "GL207"
    name = "frozen-branch-still-pays"
    severity = Severity.INFO
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        ops = trace.ops[trace.forward_start :]
        if any(op.name == "grad" or "heckpoint" in op.name for op in ops):
            return
        if not any(p.requires_grad and p.in_tree for p in trace.parameters):
            return  # the gradient by the input is what it runs for
        told: set[int] = set()
        for number, call in enumerate(trace.calls):
            module = trace.modules[call.module]
            if module.number in told or not module.in_tree:
                continue
            parameters = trace.below(module)
            if not parameters or any(p.requires_grad for p in parameters) or not _pays(context, number, call):
                continue
            told |= {m.number for m in trace.modules if module in trace.around(m.number)}
            yield context.finding(
                self,
                f"{module.fqn} is frozen, and autograd records it for the sake of its input alone: "
                f"{context.names(parameters)} {inflect(parameters, 'keep')} activations that nothing trainable needs.",
                at=call.site,
                parameters=parameters,
                fix=Fix("Run it under torch.no_grad(), or give it an input that does not need grad."),
            )


def _pays(context: Context, number: int, call: ModuleCall) -> bool:
    """Whether a call recorded gradient with nothing trainable upstream."""
    trace = context.trace
    inside = {number}
    for other in range(number + 1, len(trace.calls)):
        if trace.calls[other].parent in inside:
            inside.add(other)
    recorded = False
    for op in trace.ops[max(call.start, trace.forward_start) :]:
        if op.call in inside:
            if any(context.flow.masks.live.get(v, 0) for v in op.inputs):
                return False
            recorded = recorded or any(trace.values[o].requires_grad for o in op.outputs)
    return recorded
