"""GL115 frozen-by-default."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Location, Rule, Severity
from gradlint.flow import frozen_in_place
from gradlint.source import call_at

_MAKER = "from_pretrained"


class FrozenByDefault(Rule):
    """A table that trained is replaced by one that from_pretrained() freezes.

    ## What it does
    Finds embeddings made by `nn.Embedding.from_pretrained(table)` without the argument `freeze`, which take the place
    of a layer that trained and whose values are computed from it: after a resize, a merge of parts, a new order of the
    rows. The severity is info if no optimizer contains the new table.

    ## Why it is bad
    `freeze` is True by default. The table trained until this line and does not train from here on. Nothing in the code
    says so, and the optimizer that contains it never updates it.

    ## Example
    ```python
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def grow(self, rows):
            table = torch.cat([self.embed.weight, torch.randn(rows, 4)])
            self.embed = nn.Embedding.from_pretrained(table)

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        model = Model()
        model.grow(2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 4), nn.Linear(4, 2)

        def grow(self, rows):
            table = torch.cat([self.embed.weight, torch.randn(rows, 4)])
            self.embed = nn.Embedding.from_pretrained(table, freeze=False)

        def forward(self, ids):
            return self.head(self.embed(ids))

    def build():
        model = Model()
        model.grow(2)
        return model, torch.optim.SGD(model.parameters(), lr=0.1)
    ```

    ## Known limits
    Vectors from elsewhere, which are often meant to stay fixed, are not reported, nor copies beside a layer that stays
    in the model. `freeze=True` says that the table is meant to be frozen.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Embedding.html#torch.nn.Embedding.from_pretrained
    """

    code = "GL115"
    name = "frozen-by-default"
    severity = Severity.WARNING

    MESSAGE = "from_pretrained() freezes {parameters} by default, in place of a layer that trained until here."
    RELATED = "replaced here"
    FIX = "Pass freeze=False to train on, or freeze=True to say that the table is meant to stay fixed."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        found = [one for one in frozen_in_place(trace) if _is_silent(trace.location(one.created))]
        for (site, is_info), members in context.by_place(found, lambda one: (one.created, not one.parameter.groups)):
            parameters = [one.parameter for one in members]
            yield context.finding(
                self,
                context.fill(self.MESSAGE, parameters),
                at=site,
                parameters=parameters,
                related=[context.related(self.RELATED, one.replaced) for one in members[:2]],
                fix=Fix(self.FIX),
                demoted=is_info,
            )


def _is_silent(location: Location | None) -> bool:
    """Return True if a call of from_pretrained() leaves `freeze` to its default."""
    match location and call_at(location.path, location, {_MAKER}):
        case ast.Call(func=ast.Attribute(attr=name), args=[_], keywords=words):
            return name == _MAKER and not any(word.arg in (None, "freeze") for word in words)
    return False
