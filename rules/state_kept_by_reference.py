"""GL510 state-kept-by-reference."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity, SourceModule, loops_around, spelled

Loop = ast.For | ast.AsyncFor | ast.While

_MOVES = frozenset("to cpu cuda xpu ipu half float double bfloat16 to_empty".split())
"""Methods of a module that may give its parameters new memory."""
_OF_MODULES = ("eval", "parameters", "named_parameters", "modules", "children")
_SCATTERS = "vector_to_parameters"
"""Makes parameters views of a vector."""


class StateKeptByReference(Rule):
    """A state_dict that is kept to be loaded again, and that training goes on to change.

    ## What it does
    Finds `best = model.state_dict()` in a loop that trains the model, and `model.load_state_dict(best)` after it.

    ## Why it is bad
    A state_dict holds the parameters themselves, without their history. Optimizers write in place, so what was kept is
    always the newest state: loading it puts back what is there already, and the best epoch is lost.

    ## Example
    ```python
    import torch
    from torch import nn

    def fit(model, optimizer, batches):
        least = float("inf")
        for x, y in batches:
            loss = nn.functional.mse_loss(model(x), y)
            if loss.item() < least:
                least = loss.item()
                best = model.state_dict()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.load_state_dict(best)

    def build():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, optimizer, [(torch.randn(3, 4), torch.randn(3, 2))] * 2)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Use instead
    ```python
    import copy

    import torch
    from torch import nn

    def fit(model, optimizer, batches):
        least = float("inf")
        for x, y in batches:
            loss = nn.functional.mse_loss(model(x), y)
            if loss.item() < least:
                least = loss.item()
                best = copy.deepcopy(model.state_dict())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.load_state_dict(best)

    def build():
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        fit(model, optimizer, [(torch.randn(3, 4), torch.randn(3, 2))] * 2)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Known limits
    Looks at one function: the loop trains by itself or by a function of the same file. Silent where the model is set
    anew, moved or given other memory in the loop, and where the state is copied or handed on.

    ## References
    https://pytorch.org/tutorials/beginner/saving_loading_models.html (the tip on best_model_state)
    """

    code = "GL510"
    name = "state-kept-by-reference"
    severity = Severity.ERROR
    marks = ("load_state_dict",)

    def check(self, context: Context) -> Iterator[Finding]:
        """Nothing: where a state is kept shows in the source alone."""
        yield from ()

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        loads: dict[ast.stmt, tuple[str, str, ast.Call]] = {}
        for use in module.tree.attributes.get("load_state_dict", ()):
            load = module.tree.parents.get(use)
            if not isinstance(load, ast.Call) or load.func is not use:
                continue
            model, keywords = spelled(use.value), {k.arg: k.value for k in load.keywords}
            given = [*load.args, keywords.get("state_dict")][0]
            if not isinstance(given, ast.Name) or "assign" in keywords or not _is_model(module, model):
                continue
            for kept in _kept(module, given, model):
                if _goes_stale(module, kept, model):
                    loads.setdefault(kept, (given.id, model, load))
        for kept, (state, model, load) in loads.items():
            yield module.finding(
                self,
                f"{state} holds the parameters of {model} themselves, and training goes on to change them: loading it "
                f"puts back what is there already.",
                kept,
                related=[module.related("loaded here", load)],
                fix=Fix(f"Keep a copy: copy.deepcopy({model}.state_dict())."),
            )


def _is_model(module: SourceModule, name: str) -> bool:
    """Whether what has a name is used as modules are: optimizers and schedulers have states of another kind."""
    if any(f.name == "state_dict" for f in module.stated(ast.FunctionDef)):
        return False
    names = (name, name.rpartition(".")[2])  # self.model may be model where it is given to a function
    if any(spelled(call.func) in names for call in module.tree.nodes(ast.Call)):
        return True
    uses = (use for attribute in _OF_MODULES for use in module.tree.attributes.get(attribute, ()))
    return any(spelled(use.value) in names for use in uses)


def _kept(module: SourceModule, state: ast.Name, model: str) -> list[ast.stmt]:
    """The statements in which a name is given the model's state_dict as it is; none if it is ever something else, or
    goes where it could be copied."""
    found: list[ast.stmt] = []
    for binding in module.tree.bindings(state):
        value = module.kinds.value_given(binding)
        if _is_state_of(value, model):
            statement = module.tree.statement(binding)
            assert statement is not None
            found.append(statement)
        elif not isinstance(value, ast.Constant) and not (isinstance(value, ast.Dict) and not value.keys):
            return []
    function = module.tree.function(state)
    uses = [use for use in module.tree.loads.get(state.id, ()) if module.tree.function(use) is function]
    return found if all(_only_read(module, use) for use in uses) else []


def _is_state_of(value: ast.expr | None, model: str) -> bool:
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "state_dict"
        and spelled(value.func.value) == model
    )


def _only_read(module: SourceModule, use: ast.Name) -> bool:
    """Whether a use of the name neither copies the state nor lets anybody change what it holds."""
    above = module.tree.parents.get(use)
    if isinstance(above, ast.keyword):
        above = module.tree.parents.get(above)
    if isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute):
        return above.func.attr in ("load_state_dict", "save")
    return isinstance(above, ast.Compare | ast.If | ast.BoolOp | ast.UnaryOp | ast.Return)


def _goes_stale(module: SourceModule, kept: ast.stmt, model: str) -> bool:
    """Whether the state is kept of some rounds of a loop that goes on to train the same model in the same memory."""
    tree = module.tree
    if any(isinstance(s, ast.Break | ast.Return) for s in tree.block(kept)):
        return False
    for loop in loops_around(tree, kept):
        above = list(tree.above(kept))
        chosen = any(isinstance(around, ast.If) for around in above[: above.index(loop)])
        if chosen and _trains(module, loop, model):
            return not _has_new_memory(loop, model)
    return False


def _trains(module: SourceModule, loop: Loop, model: str) -> bool:
    """Whether a loop uses the model, and steps an optimizer after a backward: itself or in a function of the file."""
    bodies: list[ast.AST] = [loop]
    for body in bodies:  # which grows by what is called
        for call in (node for node in ast.walk(body) if isinstance(node, ast.Call)):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            bodies += (f for f in module.stated(ast.FunctionDef) if f.name == name and f not in bodies)
    nodes = [node for body in bodies for node in ast.walk(body)]
    within = nodes if model.startswith("self.") else list(ast.walk(loop))
    calls = [node for node in within if isinstance(node, ast.Call)]
    used = any(spelled(part) == model for call in calls for part in (call.func, *call.args))
    return used and {"backward", "step"} <= {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _has_new_memory(loop: Loop, model: str) -> bool:
    """Whether a loop makes the model anew, or gives its parameters other memory than they had."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = spelled(node)
            if name == model or model.startswith(f"{name}.") or name.endswith(".data"):
                return True
        if isinstance(node, ast.Attribute) and node.attr in _MOVES and spelled(node.value) == model:
            return True
    return any(isinstance(n, ast.Call) and spelled(n.func).endswith(_SCATTERS) for n in ast.walk(loop))
