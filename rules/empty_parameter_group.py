"""GL307 empty-parameter-group."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity


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
    Silent on groups that are empty because a filter found nothing, and on iterators that do not tell their state.

    ## References
    https://docs.python.org/3/glossary.html#term-generator-iterator
    """

    code = "GL307"
    name = "empty-parameter-group"
    severity = Severity.ERROR
    needs = frozenset({"optimizer"})

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
