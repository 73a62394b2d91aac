"""GL204 eval-undone-by-train."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Function, Location, Module, Rule, Severity, dotted, function_of


class EvalUndoneByTrain(Rule):
    """An `eval()` that lasts until the next `train()`.

    ## What it does
    Finds parts of the model that user code put in eval mode and that a later `train()` of the model put back: one that
    was recorded, or the one that the set-up's `step` begins with.

    ## Why it is bad
    `train()` goes down the whole tree. Norm layers that were meant to keep their statistics, and dropout that was meant
    to rest, are active again from the first epoch on.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        model[1].eval()
        model.train()
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
        model.train()
        model[1].eval()
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Silent where the part ran in eval mode in between (an evaluation), where nothing in it depends on the mode, and
    where the step calls anything that may put it in eval again. Frozen norms whose statistics move are GL201's.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train
    """

    code = "GL204"
    name = "eval-undone-by-train"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        modes = list(trace.events_of("mode"))
        groups: dict[Location | None, tuple[Event, Event | Location, list[Module]]] = {}
        later = _train_in_step(context)
        for event in modes:
            part = trace.modules[event.data["module"]]
            if event.data["training"] or not part.in_tree or part.parent < 0 or event.op > trace.forward_start:
                continue
            where = trace.location(event.site)
            if not context.by_user(event.site) or not _sensitive(context, part):
                continue
            following = [e for e in modes if e.number > event.number and _holds(context, e.data["module"], part)]
            undone: Event | Location | None = None
            if part.training and following and following[-1].data["training"]:
                undone = next(e for e in following if e.data["training"])
                if undone.data["module"] == part.number or _ran(context, part, event.op, undone.op):
                    continue
                if not any(c.module in _inner(context, part) and c.training for c in trace.calls):
                    continue
            elif part.number in trace.undone_by_train and not part.training:
                undone = _train_recorded(context, part) or later
            if undone is not None:
                groups.setdefault(where, (event, undone, []))[2].append(part)
        for where, (event, undone, parts) in groups.items():
            names = ", ".join(p.fqn for p in parts[:4]) + (f" and {len(parts) - 4} more" if len(parts) > 4 else "")
            yield context.finding(
                self,
                f"the eval mode of {names} does not last: train() of the whole model undoes it.",
                at=where,
                parameters=[p for part in parts for p in trace.below(part)],
                related=[context.related("train() is called here", undone), *context.callers(event.site)],
                fix=Fix("Override train() so that it puts the part in eval mode again, or call eval() after train()."),
            )


def _inner(context: Context, part: Module) -> set[int]:
    found = {part.number}
    for module in context.trace.modules:
        if module.in_tree and (module.parent in found or module.fqn.startswith(f"{part.fqn}.")):
            found.add(module.number)
    return found


def _holds(context: Context, number: int, part: Module) -> bool:
    while part.number != number and part.parent >= 0:
        part = context.trace.modules[part.parent]
    return part.number == number


def _ran(context: Context, part: Module, start: int, end: int) -> bool:
    inner = _inner(context, part)
    return any(c.module in inner and start <= c.start < end for c in context.trace.calls)


def _sensitive(context: Context, part: Module) -> bool:
    """Whether something in a part depends on the mode, other than frozen norms, of which GL201 speaks."""
    trace = context.trace
    for number in _inner(context, part):
        module = trace.modules[number]
        if getattr(module.module, "running_mean", None) is not None:
            own = [trace.parameters[i] for i in module.parameters]
            if not own or any(p.requires_grad for p in own):
                return True
        kinds = {cls.__name__ for cls in module.type.__mro__}
        if kinds & {"_DropoutNd", "DropPath"} and getattr(module.module, "p", True):
            return True
    return False


def _evals(function: Function, name: str) -> bool:
    """Whether a function of that name in the same file, other than train(), puts something in eval mode."""
    return any(
        isinstance(inner, ast.Attribute) and inner.attr in ("eval", "training")
        for node in ast.walk(function.module_tree)
        if isinstance(node, ast.FunctionDef) and node.name == name != "train"
        for inner in ast.walk(node)
    )


def _train_recorded(context: Context, part: Module) -> Event | None:
    """The train() in the recorded steps after which a part ran in train mode."""
    training = context.trace.training
    if training is None:
        return None
    inner = _inner(context, part)
    calls = [c for c in context.trace.calls if c.module in inner and c.start >= training.start]
    for event in context.trace.events_of("mode"):
        if event.op >= training.start and event.data["training"] and _holds(context, event.data["module"], part):
            ran = next((c for c in calls if c.start >= event.op), None)
            return event if ran is not None and ran.training else None
    return None


def _train_in_step(context: Context) -> Location | None:
    """The `net.train()` of the set-up's step, where nothing in the step may put parts in eval mode again."""
    step = context.trace.setup.step
    code = getattr(getattr(step, "__func__", step), "__code__", None)
    function = function_of(code) if code is not None else None
    if function is None:
        return None
    found = None
    for node in function.nodes():
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            own = isinstance(node.func, ast.Name) or isinstance(getattr(node.func, "value", None), ast.Name)
            if any(word in name.lower() for word in ("eval", "freeze")) or name == "apply":
                return None
            if own and _evals(function, name):
                return None
            plain = not node.args or (isinstance(node.args[0], ast.Constant) and node.args[0].value is True)
            if name == "train" and plain and isinstance(node.func, ast.Attribute) and dotted(node.func.value):
                if len(dotted(node.func.value)) == 1:
                    found = found or function.location(node)
    return found
