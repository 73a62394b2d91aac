"""GL510 state-kept-by-reference."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Finding, Fix, Rule, Severity, SourceContext, SourceModule
from gradlint.source import dotted_text, last_name, loops_around

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
    A state_dict holds the parameters themselves, without their history. Optimizers write in place, so the kept state is
    always the newest. Loading it changes nothing, and the best epoch is lost.

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
    Judges one function: the loop trains by itself or by a function of the same file. Not reported if the loop makes the
    model anew, moves it or gives it other memory, and if the state is copied or passed on.

    ## References
    https://pytorch.org/tutorials/beginner/saving_loading_models.html (the tip on best_model_state)
    """

    code = "GL510"
    name = "state-kept-by-reference"
    severity = Severity.ERROR
    names_parameters = False
    source_prefilter = ("load_state_dict",)

    MESSAGE = (
        "{state} holds the parameters of {model}, not copies: training changes both, and loading {state} restores "
        "nothing."
    )
    RELATED_LOADED = "loaded here"
    FIX = "Keep a copy: copy.deepcopy({model}.state_dict())."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        loads: dict[ast.stmt, tuple[str, str, ast.Call]] = {}
        for use in module.tree.attributes.get("load_state_dict", ()):
            load = module.tree.parents.get(use)
            if not isinstance(load, ast.Call) or load.func is not use:
                continue
            model, keywords = dotted_text(use.value), {k.arg: k.value for k in load.keywords}
            state = [*load.args, keywords.get("state_dict")][0]
            if not isinstance(state, ast.Name) or "assign" in keywords or not _is_model(module, model):
                continue
            for statement in _kept_states(module, state, model):
                if _goes_stale(module, statement, model):
                    loads.setdefault(statement, (state.id, model, load))
        for statement, (name, model, load) in loads.items():
            yield context.finding(
                self,
                self.MESSAGE.format(state=name, model=model),
                statement,
                related=[context.related(self.RELATED_LOADED, load)],
                fix=Fix(self.FIX.format(model=model)),
            )


def _is_model(module: SourceModule, name: str) -> bool:
    """Return True if the file uses an object as a module, not as an optimizer or scheduler."""
    if any(f.name == "state_dict" for f in module.stated(ast.FunctionDef)):
        return False
    names = (name, name.rpartition(".")[2])  # self.model may be model where it is given to a function
    if any(dotted_text(call.func) in names for call in module.tree.nodes(ast.Call)):
        return True
    uses = (use for attribute in _OF_MODULES for use in module.tree.attributes.get(attribute, ()))
    return any(dotted_text(use.value) in names for use in uses)


def _kept_states(module: SourceModule, state: ast.Name, model: str) -> list[ast.stmt]:
    """Return the statements that assign the model's state_dict to a name.

    None count if the name is ever assigned anything else, or passed to code that could copy it.
    """
    states: list[ast.stmt] = []
    for binding in module.tree.bindings(state):
        value = module.kinds.value_given(binding)
        if _is_state_of(value, model):
            statement = module.tree.statement(binding)
            assert statement is not None
            states.append(statement)
        elif not isinstance(value, ast.Constant) and not (isinstance(value, ast.Dict) and not value.keys):
            return []
    function = module.tree.function(state)
    uses = [use for use in module.tree.loads.get(state.id, ()) if module.tree.function(use) is function]
    return states if all(_only_read(module, use) for use in uses) else []


def _is_state_of(value: ast.expr | None, model: str) -> bool:
    """Return True if an expression is a model's state_dict."""
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr == "state_dict"
        and dotted_text(value.func.value) == model
    )


def _only_read(module: SourceModule, use: ast.Name) -> bool:
    """Return True if a use of the name neither copies the state nor changes its contents."""
    above = module.tree.parents.get(use)
    if isinstance(above, ast.keyword):
        above = module.tree.parents.get(above)
    if isinstance(above, ast.Call) and isinstance(above.func, ast.Attribute):
        return above.func.attr in ("load_state_dict", "save")
    return isinstance(above, ast.Compare | ast.If | ast.BoolOp | ast.UnaryOp | ast.Return)


def _goes_stale(module: SourceModule, statement: ast.stmt, model: str) -> bool:
    """Return True if some rounds of a loop keep the state, and the loop then changes it."""
    tree = module.tree
    if any(isinstance(s, ast.Break | ast.Return) for s in tree.block(statement)):
        return False
    for loop in loops_around(tree, statement):
        above = list(tree.above(statement))
        chosen = any(isinstance(around, ast.If) for around in above[: above.index(loop)])
        if chosen and _trains(module, loop, model):
            return not _has_new_memory(loop, model)
    return False


def _trains(module: SourceModule, loop: Loop, model: str) -> bool:
    """Return True if a loop, with the functions that it calls, trains the model."""
    bodies: list[ast.AST] = [loop]
    for body in bodies:  # which grows by what is called
        for call in (node for node in ast.walk(body) if isinstance(node, ast.Call)):
            name = last_name(call.func)
            bodies += (f for f in module.stated(ast.FunctionDef) if f.name == name and f not in bodies)
    nodes = [node for body in bodies for node in ast.walk(body)]
    within = nodes if model.startswith("self.") else list(ast.walk(loop))
    calls = [node for node in within if isinstance(node, ast.Call)]
    used = any(dotted_text(part) == model for call in calls for part in (call.func, *call.args))
    return used and {"backward", "step"} <= {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def _has_new_memory(loop: Loop, model: str) -> bool:
    """Return True if a loop makes the model anew, or gives its parameters other memory."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = dotted_text(node)
            if name == model or model.startswith(f"{name}.") or name.endswith(".data"):
                return True
        if isinstance(node, ast.Attribute) and node.attr in _MOVES and dotted_text(node.value) == model:
            return True
    return any(isinstance(n, ast.Call) and dotted_text(n.func).endswith(_SCATTERS) for n in ast.walk(loop))
