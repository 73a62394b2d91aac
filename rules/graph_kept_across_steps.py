"""GL508 graph-kept-across-steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceContext
from gradlint.source import Function, additions, function_of, has_history, in_grad_off, is_released, loops_around


class GraphKeptAcrossSteps(Rule):
    """A sum of losses that keeps the graph of every step.

    ## What it does
    Finds `total += loss` and `losses.append(loss)` in a loop that calls `loss.backward()`, if the sum or list outlives
    the loop. In recorded steps, finds tensors with a history that are alive two steps after they were computed.

    ## Why it is bad
    `loss` is a tensor with a history, and so is the sum. It keeps the graph of every step alive, and memory grows with
    each step until the epoch ends or the memory is full. A log needs only the number.

    ## Example
    ```python
    import torch
    from torch import nn

    def epoch(model, optimizer, batches):
        total = 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss
        return total / len(batches)

    def build():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        epoch(model, optimizer, [(torch.randn(3, 4), torch.randn(3, 2))] * 2)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def epoch(model, optimizer, batches):
        total = 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total / len(batches)

    def build():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        epoch(model, optimizer, [(torch.randn(3, 4), torch.randn(3, 2))] * 2)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Known limits
    Not reported if the sum itself goes into a backward, if the loop empties or resets it, or if the loss loses its
    history first.

    ## References
    https://pytorch.org/docs/stable/notes/faq.html (my model reports "cuda runtime error(2): out of memory")
    """

    code = "GL508"
    name = "graph-kept-across-steps"
    severity = Severity.WARNING
    fixable = True
    names_parameters = False
    source_prefilter = ("backward(",)

    MESSAGE_SUM = "this tensor keeps the autograd graph of its step: two steps later, a sum still contains that graph."
    MESSAGE_ALIVE = (
        "this tensor keeps the autograd graph of its step: two steps later, {count} tensors made here are still alive."
    )
    MESSAGE_SOURCE = "{tensor} has its autograd graph: {holder} keeps the graph of every iteration of the loop alive."
    RELATED_BACKWARD = "backward() is called here"
    FIX = "Keep the value without its history: .detach(), or .item() for a number."
    FIX_SOURCE = "Add the value without its history: {tensor}.detach(), or .item() for a number."

    def check(self, context: Context) -> Iterator[Finding]:
        training = context.trace.training
        for kept_graph in training.kept_graphs if training is not None else ():
            frame = context.trace.frame(kept_graph.site)
            if frame is None or _has_training_loop(function_of(frame.code)):
                continue  # the source of a loop shows the sum itself
            message = self.MESSAGE_SUM if kept_graph.grows else self.MESSAGE_ALIVE.format(count=kept_graph.values)
            yield context.finding(self, message, at=kept_graph.site, fix=Fix(self.FIX))

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for call in module.tree.nodes(ast.Call):
            if not isinstance(call.func, ast.Attribute) or not call.func.attr.endswith("backward"):
                continue
            loops = loops_around(module.tree, call)
            if not loops or any(k.arg in ("retain_graph", "create_graph") for k in call.keywords):
                continue
            function = module.tree.function(call) or module.syntax
            # loss.backward(), scaler.scale(loss).backward(), accelerator.backward(loss)
            parts = (node for part in (call.func.value, *call.args[:1]) for node in ast.walk(part))
            for addition in additions(loops[0], {n.id for n in parts if isinstance(n, ast.Name)}):
                if in_grad_off(module, addition.statement) or not has_history(module, addition):
                    continue
                if is_released(module, addition, function):
                    continue
                tensor = addition.tensor.id
                yield context.finding(
                    self,
                    self.MESSAGE_SOURCE.format(tensor=tensor, holder=module.text(addition.holder)),
                    addition.statement,
                    related=[context.related(self.RELATED_BACKWARD, call)],
                    fix=Fix(
                        self.FIX_SOURCE.format(tensor=tensor),
                        safe=True,
                        edits=(context.replacement(addition.tensor, f"{tensor}.detach()"),),
                    ),
                )


def _has_training_loop(function: Function | None) -> bool:
    """Return True if a function holds a loop and a backward."""
    nodes = list(ast.walk(function.node)) if function is not None else []
    has_backward = any(isinstance(n, ast.Attribute) and n.attr == "backward" for n in nodes)
    return has_backward and any(isinstance(n, ast.For | ast.While) for n in nodes)
