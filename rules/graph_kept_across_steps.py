"""GL508 graph-kept-across-steps."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Function,
    Rule,
    Severity,
    SourceModule,
    function_of,
    in_grad_off,
    loops_around,
    own_nodes,
    spelled,
    surely_before,
)

_ENDS = frozenset("item detach tolist numpy data backward".split())
"""What gives a value without its history."""
_NUMBERS = frozenset("float int round str bool len".split())
_SIZES = frozenset("size numel dim nelement".split())
_FORGETS = frozenset("clear pop popleft popitem reset".split())


@dataclass(frozen=True)
class _Kept:
    """A statement that adds a loss to what outlives the round."""

    statement: ast.stmt
    holder: ast.expr
    loss: ast.Name


class GraphKeptAcrossSteps(Rule):
    """A sum of losses that keeps the graph of every step.

    ## What it does
    Finds `total += loss` and `losses.append(loss)` in a loop that calls `loss.backward()`, where what they add to
    outlives the loop. In recorded steps: tensors with a history that are alive two steps after they were computed.

    ## Why it is bad
    `loss` is a tensor with a history. The sum is one too: it holds every step's graph, and memory grows with each step
    until the epoch ends or the memory does. For a log, the number is enough.

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
    Silent where the sum itself goes into a backward, where it is emptied or set anew in the loop, and where the loss is
    given a value without history before it is added.

    ## References
    https://pytorch.org/docs/stable/notes/faq.html (my model reports "cuda runtime error(2): out of memory")
    """

    code = "GL508"
    name = "graph-kept-across-steps"
    severity = Severity.WARNING
    marks = ("backward(",)

    def check(self, context: Context) -> Iterator[Finding]:
        """What recorded steps left alive, where no loop in the source shows it."""
        training = context.trace.training
        for kept in training.kept if training is not None else ():
            frame = context.trace.frame(kept.site)
            assert frame is not None  # what is kept has a place
            if _loops(function_of(frame.code)):
                continue
            what = "a sum that reaches back through all steps" if kept.grows else f"{kept.values} of them are alive"
            yield context.finding(
                self,
                f"what is computed here keeps the graph of its step: two steps later {what}.",
                at=kept.site,
                fix=Fix("Keep the value without its history: .detach(), or .item() for a number."),
            )

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for call in module.tree.nodes(ast.Call):
            if not isinstance(call.func, ast.Attribute) or not call.func.attr.endswith("backward"):
                continue
            loops = loops_around(module.tree, call)
            names = _stepped(call)
            if not loops or any(k.arg in ("retain_graph", "create_graph") for k in call.keywords):
                continue
            for kept in _additions(loops[0], names):
                if self._grows(module, kept, call, loops[0]):
                    place = module.location(kept.loss)
                    yield module.finding(
                        self,
                        f"{kept.loss.id} still has its history: {module.text(kept.holder)} keeps the graph of every "
                        f"round of the loop.",
                        kept.statement,
                        related=[module.related("backward is called here", call)],
                        fix=Fix(
                            f"Add the value without its history: {kept.loss.id}.detach(), or .item() for a number.",
                            safe=True,
                            edits=(Edit(place, f"{kept.loss.id}.detach()"),),
                        ),
                    )

    def _grows(self, module: SourceModule, kept: _Kept, call: ast.Call, loop: ast.AST) -> bool:
        tree = module.tree
        function = tree.function(call) or module.syntax
        if in_grad_off(module, kept.statement) or not _computed_with_history(module, kept, loop):
            return False
        return not _looked_after(module, kept, function, loop)


def _loops(function: Function | None) -> bool:
    """Whether a function holds a loop around a backward: its source is judged then."""
    if function is None:
        return False
    nodes = list(ast.walk(function.node))
    named = {n.attr for n in nodes if isinstance(n, ast.Attribute)}
    return any(isinstance(n, ast.For | ast.While) for n in nodes) and "backward" in named


def _stepped(call: ast.Call) -> set[str]:
    """The names of the losses that a backward call is about: ``loss.backward()``, ``scaler.scale(loss).backward()``,
    ``accelerator.backward(loss)``."""
    assert isinstance(call.func, ast.Attribute)
    told = [call.func.value, *call.args[:1]]
    return {n.id for part in told for n in ast.walk(part) if isinstance(n, ast.Name)}


def _additions(loop: ast.For | ast.AsyncFor | ast.While, names: set[str]) -> Iterator[_Kept]:
    """Where the loop adds one of these names, as it is or scaled, to something that has a name."""
    body = ast.Module(body=loop.body, type_ignores=[])
    for node in own_nodes(body):
        if isinstance(node, ast.AugAssign):
            holder: ast.expr = node.target
            value = node.value
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.BinOp):
            holder = node.targets[0]
            before = [spelled(node.value.left), spelled(node.value.right)]
            if spelled(holder) not in before:
                continue
            value = (node.value.right, node.value.left)[before.index(spelled(holder))]
        elif (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Call)
            and isinstance(node.value.func, ast.Attribute)
            and node.value.func.attr == "append"
            and len(node.value.args) == 1
        ):
            holder, value = node.value.func.value, node.value.args[0]
        else:
            continue
        loss = _operand(value, names)
        if loss is not None and isinstance(holder, ast.Name | ast.Attribute | ast.Subscript):
            yield _Kept(node, holder, loss)


def _operand(value: ast.expr, names: set[str]) -> ast.Name | None:
    """The first of these names that an expression is, or computes with."""
    if isinstance(value, ast.BinOp):
        return _operand(value.left, names) or _operand(value.right, names)
    return value if isinstance(value, ast.Name) and value.id in names else None


def _computed_with_history(module: SourceModule, kept: _Kept, loop: ast.AST) -> bool:
    """Whether every value that the loss's name is given in the loop is computed, and none of them is a number."""
    inside = [b for b in module.tree.bindings(kept.loss) if loop in module.tree.above(b)]
    for binding in inside:
        value = module.kinds.value_given(binding)
        if value is None:
            statement = module.tree.statement(binding)
            value = statement.value if isinstance(statement, ast.Assign | ast.AugAssign) else None
        if value is None or _without_history(value):
            return False
    for use in module.tree.attributes.get("detach_", ()):
        if isinstance(use.value, ast.Name) and use.value.id == kept.loss.id:
            return False
    return any(surely_before(module.tree, b, kept.statement) for b in inside)


def _without_history(value: ast.expr) -> bool:
    """Whether an expression may give a number or a detached tensor."""
    for node in ast.walk(value):
        if isinstance(node, ast.Attribute) and node.attr in _ENDS:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _NUMBERS:
            return True
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in _SIZES:
        return True
    return not any(isinstance(n, ast.Call) for n in ast.walk(value))


def _looked_after(module: SourceModule, kept: _Kept, function: ast.AST, loop: ast.AST) -> bool:
    """Whether the holder is set anew or emptied in the loop, goes into a backward, or is detached."""
    tree = module.tree
    text = spelled(kept.holder)
    root: ast.expr = kept.holder
    while isinstance(root, ast.Subscript | ast.Attribute):
        root = root.value
    roots = {text} if spelled(root) == "self" else {text, spelled(root)}
    onward = set(roots)
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node is not kept.statement:
            targets = {spelled(t) for t in (node.targets if isinstance(node, ast.Assign) else [node.target])}
            if targets & roots and loop in tree.above(node) and not isinstance(node, ast.AugAssign):
                return True
            if node.value is not None and _mentions(node.value, onward):
                onward |= targets
        if isinstance(node, ast.Attribute) and spelled(node.value) in roots:
            if node.attr in _FORGETS or (node.attr in ("detach", "detach_") and loop in tree.above(node)):
                return True
        if isinstance(node, ast.Delete) and any(_mentions(t, roots) for t in node.targets):
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr.endswith("backward"):
            if _mentions(node, onward):
                return True
    return any(
        isinstance(n.value, ast.Call)
        and any(k.arg == "maxlen" for k in n.value.keywords)
        and any(spelled(t) in roots for t in n.targets)
        for n in tree.nodes(ast.Assign)
    )


def _mentions(node: ast.AST, texts: set[str]) -> bool:
    return any(spelled(n) in texts for n in ast.walk(node))
