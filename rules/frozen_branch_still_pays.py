"""GL207 frozen-branch-still-pays."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Module, ModuleCall, Rule, Severity
from gradlint.rulekit import number_pattern, patterns_of


class FrozenBranchStillPays(Rule):
    """A frozen prefix that keeps activations for a gradient that is not used.

    ## What it does
    Finds calls of modules without trainable parameters and without any before them, on an input that requires grad.
    Autograd records them, although no parameter needs a gradient.

    ## Why it is bad
    The activations are kept, and the backward runs down to the input, although its gradient is not used.

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
    Not reported if the gradient of an input is used (`torch.autograd.grad`) or nothing of the model trains (an image
    optimized through it). Also not reported under checkpointing, which needs an input that requires grad.

    ## References
    https://pytorch.org/docs/stable/notes/autograd.html#locally-disabling-gradient-computation
    """

    code = "GL207"
    name = "frozen-branch-still-pays"
    severity = Severity.INFO
    needs = frozenset({"forward"})

    MESSAGE = "the frozen {module} keeps activations for the gradient of its input, which nothing uses: {parameters}."
    FIX = "Run the frozen layers under torch.no_grad(), or give them an input that does not require grad."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        ops = trace.ops[trace.forward_start :]
        if any(op.name == "grad" or "heckpoint" in op.name for op in ops):
            return
        mine = {p.key: p for p in trace.parameters if p.in_tree}
        if not any(p.requires_grad for p in mine.values()) or any(o.keys - mine.keys() for o in trace.optimizers):
            return  # the gradient of the input is the purpose
        values, live = trace.values, context.flow.masks.live
        trained = trace.with_outer_calls(op.call for op in ops if any(live.get(v, 0) for v in op.inputs))
        recorded = trace.with_outer_calls(op.call for op in ops if any(values[o].requires_grad for o in op.outputs))
        reported: set[int] = set()
        paying: list[tuple[ModuleCall, Module]] = []
        for number in sorted(recorded - trained):
            call = trace.calls[number]
            module = trace.modules[call.module]
            if not module.in_tree or any(around.number in reported for around in trace.around(module.number)):
                continue
            parameters = trace.below(module)
            if parameters and not any(p.requires_grad for p in parameters):
                reported.add(module.number)
                paying.append((call, module))
        for _, group in context.by_place(
            paying, lambda item: (trace.location(item[0].site), number_pattern(item[1].fqn))
        ):
            modules = list({module.number: module for _, module in group}.values())
            parameters = [p for module in modules for p in trace.below(module)]
            yield context.finding(
                self,
                context.fill(self.MESSAGE, parameters, module=patterns_of([m.fqn for m in modules], limit=1)),
                at=group[0][0].site,
                parameters=parameters,
                fix=Fix(self.FIX),
            )
