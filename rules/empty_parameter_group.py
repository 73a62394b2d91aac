"""GL307 empty-parameter-group."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from typing import TypeGuard

from gradlint import Context, Finding, Fix, Related, Rule, Severity, SourceContext, SourceModule
from gradlint.flow import group_location
from gradlint.rulekit import iterator_places
from gradlint.source import consumed_whole, loops_around, surely_before


class EmptyParameterGroup(Rule):
    """A parameter group made from an exhausted iterator.

    ## What it does
    Finds parameter groups that are empty because their generator, or a `filter` or `map` over one, was exhausted
    before: by a count, a print, a clip, or another group.

    ## Why it is bad
    `parameters()` can be iterated once. The group is silently empty, and its parameters never train.

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
    A function that iterates over its argument twice is judged if it and the call are in one file. Not reported for
    groups that are empty because a filter matched nothing, or iterators that do not expose their state. In a source
    file alone, the rule judges iterators of parameters with a name that is bound once, if one use certainly follows
    another.

    ## References
    https://docs.python.org/3/glossary.html#term-generator-iterator
    """

    code = "GL307"
    name = "empty-parameter-group"
    severity = Severity.ERROR
    fixable = True
    names_parameters = False
    needs = frozenset({"optimizer"})
    source_prefilter = ("parameters(",)
    same_mistake_as = frozenset({"GL506"})

    MESSAGE = "group {group} of {optimizer} is empty: the iterator passed for it was already exhausted."
    MESSAGE_LOST = MESSAGE + " No optimizer holds {parameters}."
    MESSAGE_TWICE = "{function} iterates over {argument} twice, but the first time exhausts the iterator."
    MESSAGE_USED = "{name} is an iterator that is already exhausted here: this use gets no parameters."
    MESSAGE_LOOP = "{name} is exhausted by the first iteration of the loop: later iterations get no parameters."
    RELATED_MADE = "the iterator is created here"
    RELATED_OPTIMIZER = "{optimizer} is created here"
    RELATED_FIRST = "exhausted here"
    RELATED_SECOND = "this use gets no parameters"
    RELATED_LOOP = "the loop"
    FIX = "Keep the parameters in a list: list(model.parameters())."
    FIX_ARGUMENT = "Pass a list: list(model.parameters())."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        module = context.module
        for call in module.tree.nodes(ast.Call):
            if isinstance(call.func, ast.Name):
                yield from self._passed_on(context, call, call.func)
        for scope in module.tree.scopes.values():
            for name, bindings in scope.bindings.items():
                value = module.kinds.value_given(bindings[0])
                if len(bindings) == 1 and _is_iterator(value, module):
                    uses = [u for u in module.tree.loads.get(name, ()) if module.tree.bindings(u) is bindings]
                    yield from self._exhausted(context, bindings[0], value, uses)

    def _passed_on(self, context: SourceContext, call: ast.Call, name: ast.Name) -> Iterator[Finding]:
        """Yield the findings on iterators passed to a function that iterates over them twice."""
        module, tree = context.module, context.module.tree
        bindings = tree.bindings(name)
        function = bindings[0] if len(bindings) == 1 else None
        if not isinstance(function, ast.FunctionDef) or function.decorator_list:
            return
        for value, argument in zip(call.args, (*function.args.posonlyargs, *function.args.args), strict=False):
            if not _is_iterator(value, module):
                continue
            uses = [use for use in tree.loads.get(argument.arg, ()) if tree.bindings(use) == [argument]]
            for first, second in _second_uses(module, uses)[:1]:
                yield context.finding(
                    self,
                    self.MESSAGE_TWICE.format(function=function.name, argument=argument.arg),
                    call,
                    related=[
                        context.related(self.RELATED_FIRST, first),
                        context.related(self.RELATED_SECOND, second),
                    ],
                    fix=self._fix(context, self.FIX_ARGUMENT, value),
                )

    def _exhausted(
        self, context: SourceContext, binding: ast.AST, value: ast.expr, uses: list[ast.Name]
    ) -> Iterator[Finding]:
        """Yield the finding on the first use of a named iterator that is exhausted by then."""
        module = context.module
        candidates: list[tuple[ast.Name, str, Related]] = [
            (second, self.MESSAGE_USED, context.related(self.RELATED_FIRST, first))
            for first, second in _second_uses(module, uses)
        ]
        for use in uses:
            loops = [loop for loop in loops_around(module.tree, use) if loop not in module.tree.above(binding)]
            if loops and consumed_whole(module, use) and not _may_end_early(loops[-1]):
                candidates.append((use, self.MESSAGE_LOOP, context.related(self.RELATED_LOOP, loops[0])))
        for use, message, related in sorted(candidates, key=lambda f: (f[0].lineno, f[0].col_offset))[:1]:
            yield context.finding(
                self,
                message.format(name=use.id),
                use,
                related=[context.related(self.RELATED_MADE, value), related],
                fix=self._fix(context, self.FIX, value),
            )

    def _fix(self, context: SourceContext, text: str, value: ast.expr) -> Fix:
        return Fix(text, safe=True, edits=(context.replacement(value, f"list({context.module.text(value)})"),))

    def check(self, context: Context) -> Iterator[Finding]:
        for optimizer, group in context.flow.exhausted:
            lost = [p for p in context.trace.parameters if p.requires_grad and p.in_tree and not p.groups]
            message = self.MESSAGE_LOST if lost else self.MESSAGE
            made, used = iterator_places(context.trace, group.site)
            created = self.RELATED_OPTIMIZER.format(optimizer=optimizer.type)
            yield context.finding(
                self,
                message.format(group=group.index, optimizer=optimizer.type, parameters=context.names(lost)),
                at=group_location(context.trace, optimizer, group),
                parameters=lost,
                related=[
                    context.related(created, optimizer.site),
                    *(context.related(self.RELATED_MADE, at) for at in (made, *optimizer.arguments.chosen_at)),
                    context.related(self.RELATED_FIRST, used),
                ],
                fix=Fix(self.FIX),
            )


def _is_iterator(value: ast.expr | None, module: SourceModule) -> TypeGuard[ast.expr]:
    """Return True if an expression gives an iterator over parameters."""
    kind = module.kind(value)
    return kind is not None and kind.once and kind.item is not None and kind.item.what == "parameter"


def _second_uses(module: SourceModule, uses: Sequence[ast.Name]) -> list[tuple[ast.Name, ast.Name]]:
    """Return (first, second) for each use that certainly follows one that exhausts the iterator."""
    whole = [use for use in uses if consumed_whole(module, use)]
    return [(one, two) for two in whole for one in whole if surely_before(module.tree, one, two)]


def _may_end_early(loop: ast.AST) -> bool:
    """Return True if a loop may end before its second round."""
    return any(isinstance(n, ast.Break | ast.Return | ast.Raise) for n in ast.walk(loop))
