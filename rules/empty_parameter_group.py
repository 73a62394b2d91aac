"""GL307 empty-parameter-group."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Rule,
    Severity,
    SourceModule,
    consumed_whole,
    loops_around,
    surely_before,
)

_NO_ITERATORS = frozenset("list tuple sum len sorted set next".split())


class EmptyParameterGroup(Rule):
    """A parameter group made from an iterator that was used up.

    ## What it does
    Finds parameter groups that are empty because the generator (or `filter`, `map` over one) that they were given had
    been consumed before: counted, printed, clipped, given to another group.

    ## Why it is bad
    `parameters()` can be walked once. The group holds nothing, without a word, and its parameters never train.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        body = model[0].parameters()
        size = sum(p.numel() for p in body)
        optimizer = torch.optim.SGD([{"params": body, "lr": 1 / size}, {"params": model[2].parameters()}], lr=0.1)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        body = list(model[0].parameters())
        size = sum(p.numel() for p in body)
        optimizer = torch.optim.SGD([{"params": body, "lr": 1 / size}, {"params": model[2].parameters()}], lr=0.1)
        return {"model": model, "inputs": (torch.randn(3, 4),), "optimizer": optimizer}
    ```

    ## Known limits
    Functions that walk an argument twice are seen where they and the call are in one file. Silent on groups that are
    empty because a filter found nothing, and on iterators that do not tell their state. In a
    source file alone, on iterators of parameters with a name that is bound once, where one use surely follows another.

    ## References
    https://docs.python.org/3/glossary.html#term-generator-iterator
    """

    code = "GL307"
    name = "empty-parameter-group"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})
    marks = ("parameters(",)
    same_as = frozenset({"GL506"})

    def check_source(self, module: SourceModule) -> Iterator[Finding]:
        for call in module.tree.nodes(ast.Call):
            if isinstance(call.func, ast.Name) and any(isinstance(a, ast.Call | ast.GeneratorExp) for a in call.args):
                yield from self._handed_over(module, call, call.func)
        if not any(_may_name_iterator(module, statement) for statement in module.assignments):
            return
        for scope in module.tree.scopes.values():
            for name, bindings in scope.bindings.items():
                binding = bindings[0]
                if len(bindings) > 1 or not isinstance(binding, ast.Name):
                    continue
                value = module.kinds.value_given(binding)
                kind = module.kind(value)
                if value is None or kind is None or kind.what != "many" or not kind.once or kind.pairs:
                    continue
                if kind.item is None or kind.item.what != "parameter":
                    continue
                uses = [use for use in module.tree.loads.get(name, ()) if module.tree.scope_of(use) is scope
                        or module.tree.bindings(use) is bindings]  # fmt: skip
                yield from self._used_up(module, binding, value, uses)

    def _handed_over(self, module: SourceModule, call: ast.Call, named: ast.Name) -> Iterator[Finding]:
        """Iterators given to a function of the file that walks its argument more than once."""
        tree = module.tree
        bound = tree.bindings(named)
        function = bound[0] if len(bound) == 1 else None
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            return
        for value, argument in zip(call.args, (*function.args.posonlyargs, *function.args.args), strict=False):
            kind = module.kind(value) if isinstance(value, ast.Call | ast.GeneratorExp) else None
            if kind is None or kind.what != "many" or not kind.once or kind.item is None:
                continue
            if kind.item.what != "parameter" and not kind.pairs:
                continue
            whole = [
                use for use in tree.loads.get(argument.arg, ())
                if tree.bindings(use) == [argument] and tree.function(use) is function and consumed_whole(module, use)
            ]  # fmt: skip
            second = next((u for u in whole if any(o is not u and surely_before(tree, o, u) for o in whole)), None)
            if second is not None:
                first = next(o for o in whole if o is not second and surely_before(tree, o, second))
                edit = Edit(module.location(value), f"list({module.text(value)})")
                yield module.finding(
                    self,
                    f"{function.name} walks {argument.arg} twice, and an iterator can be walked once: its second walk "
                    "finds no parameter.",
                    call,
                    related=[
                        module.related("used up here", first),
                        module.related("nothing is left for this", second),
                    ],
                    fix=Fix("Give it a list: list(model.parameters()).", safe=True, edits=(edit,)),
                )

    def _used_up(
        self, module: SourceModule, binding: ast.Name, value: ast.expr, uses: list[ast.Name]
    ) -> Iterator[Finding]:
        tree = module.tree
        inside = tree.function(binding)
        whole = [
            use for use in uses
            if tree.function(use) is inside and consumed_whole(module, use) and surely_before(tree, binding, use)
        ]  # fmt: skip
        whole.sort(key=lambda use: (use.lineno, use.col_offset))
        for use in whole:
            first = next((other for other in whole if other is not use and surely_before(tree, other, use)), None)
            again = [loop for loop in loops_around(tree, use) if loop not in tree.above(binding)]
            if first is not None:
                how, related = "has been used up by then", [module.related("used up here", first)]
            elif again and not any(isinstance(n, ast.Break | ast.Return | ast.Raise) for n in ast.walk(again[-1])):
                how, related = "is used up by the first round of the loop", [module.related("the loop", again[0])]
            else:
                continue
            edit = Edit(module.location(value), f"list({module.text(value)})")
            yield module.finding(
                self,
                f"{use.id} is an iterator and {how}: nothing is left for this use, which goes without any parameter.",
                use,
                related=[module.related("the iterator is made here", value), *related],
                fix=Fix("Keep the parameters in a list: list(model.parameters()).", safe=True, edits=(edit,)),
            )
            return

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for optimizer, group in context.flow.exhausted:
            places = optimizer.arguments.group_locations if optimizer.arguments else ()
            own = group.site == optimizer.site and len(places) == len(optimizer.groups)
            lost = context.flow.by_index(context.flow.lost_to_iterators)
            yield context.finding(
                self,
                f"group {group.index} of {optimizer.type} is empty: the iterator that it was given had been used up."
                + (f" No optimizer holds {context.names(lost)}." if lost else ""),
                at=places[group.index] if own else trace.location(group.site),
                parameters=lost,
                related=[
                    context.related(f"{optimizer.type} is made here", optimizer.site),
                    *(
                        context.related("the iterator is made here", at)
                        for at in (optimizer.arguments.chosen_at if optimizer.arguments else ())
                    ),
                ],
                fix=Fix("Keep the parameters in a list: list(model.parameters())."),
            )


def _may_name_iterator(module: SourceModule, statement: ast.Assign | ast.AnnAssign) -> bool:
    """Whether a statement gives a name to something over parameters that may be no list."""
    value = statement.value
    if isinstance(value, ast.Call):
        if isinstance(value.func, ast.Name) and value.func.id in _NO_ITERATORS:
            return False
    elif not isinstance(value, ast.GeneratorExp):
        return False
    return "parameters(" in module.text_of(statement)
