"""GL307 empty-parameter-group."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from gradlint import (
    Context,
    Edit,
    Finding,
    Fix,
    Rule,
    Severity,
    SourceModule,
    consumed_whole,
    group_location,
    loops_around,
    surely_before,
)


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
            if isinstance(call.func, ast.Name):
                yield from self._handed_over(module, call, call.func)
        for scope in module.tree.scopes.values():
            for name, bindings in scope.bindings.items():
                value = module.kinds.value_given(bindings[0])
                if len(bindings) == 1 and _walked_once(value, module):
                    uses = [u for u in module.tree.loads.get(name, ()) if module.tree.bindings(u) is bindings]
                    yield from self._used_up(module, bindings[0], value, uses)

    def _handed_over(self, module: SourceModule, call: ast.Call, named: ast.Name) -> Iterator[Finding]:
        """Iterators given to a function of the file that walks its argument more than once."""
        tree = module.tree
        bound = tree.bindings(named)
        function = bound[0] if len(bound) == 1 else None
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            return
        for value, argument in zip(call.args, (*function.args.posonlyargs, *function.args.args), strict=False):
            if not _walked_once(value, module):
                continue
            uses = [use for use in tree.loads.get(argument.arg, ()) if tree.bindings(use) == [argument]]
            for first, second in _walked_again(module, uses)[:1]:
                yield module.finding(
                    self,
                    f"{function.name} walks {argument.arg} twice, and an iterator can be walked once: its second walk "
                    "finds no parameter.",
                    call,
                    related=[
                        module.related("used up here", first),
                        module.related("nothing is left for this", second),
                    ],
                    fix=_listed(module, value, "Give it a list"),
                )

    def _used_up(
        self, module: SourceModule, binding: ast.AST, value: ast.expr, uses: list[ast.Name]
    ) -> Iterator[Finding]:
        """The first use of a named iterator that nothing is left for: after another one, or in the second round."""
        made = module.related("the iterator is made here", value)
        found = [
            (second, "has been used up by then", module.related("used up here", first))
            for first, second in _walked_again(module, uses)
        ]
        for use in uses:
            rounds = [loop for loop in loops_around(module.tree, use) if loop not in module.tree.above(binding)]
            for loop in rounds[:1] if consumed_whole(module, use) and not _left(rounds[-1:]) else ():
                found.append((use, "is used up by the first round of the loop", module.related("the loop", loop)))
        for use, how, related in sorted(found, key=lambda f: (f[0].lineno, f[0].col_offset))[:1]:
            yield module.finding(
                self,
                f"{use.id} is an iterator and {how}: nothing is left for this use, which goes without any parameter.",
                use,
                related=[made, related],
                fix=_listed(module, value, "Keep the parameters in a list"),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        for optimizer, group in context.flow.exhausted:
            lost = [p for p in trace.parameters if p.requires_grad and p.in_tree and not p.groups]
            yield context.finding(
                self,
                f"group {group.index} of {optimizer.type} is empty: the iterator that it was given had been used up."
                + (f" No optimizer holds {context.names(lost)}." if lost else ""),
                at=group_location(trace, optimizer, group),
                parameters=lost,
                related=[
                    context.related(f"{optimizer.type} is made here", optimizer.site),
                    *(context.related("the iterator is made here", at) for at in optimizer.arguments.chosen_at),
                ],
                fix=Fix("Keep the parameters in a list: list(model.parameters())."),
            )


def _walked_once(value: ast.expr | None, module: SourceModule) -> TypeGuard[ast.expr]:
    """Whether an expression gives an iterator over parameters."""
    kind = module.kind(value)
    return kind is not None and kind.once and kind.item is not None and kind.item.what == "parameter"


def _walked_again(module: SourceModule, uses: list[ast.Name]) -> list[tuple[ast.Name, ast.Name]]:
    """(first, second) for each use of an iterator that surely comes after one that walked it to its end."""
    whole = [use for use in uses if consumed_whole(module, use)]
    return [(one, two) for two in whole for one in whole if surely_before(module.tree, one, two)]


def _left(loops: Sequence[ast.AST]) -> bool:
    """Whether a loop may end before its second round."""
    return any(isinstance(n, ast.Break | ast.Return | ast.Raise) for loop in loops for n in ast.walk(loop))


def _listed(module: SourceModule, value: ast.expr, what: str) -> Fix:
    edit = Edit(module.location(value), f"list({module.text(value)})")
    return Fix(f"{what}: list(model.parameters()).", safe=True, edits=(edit,))
