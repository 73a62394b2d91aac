"""GL111 lost-tie."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Rule, Severity
from gradlint.flow import PartedTie, parted_ties
from gradlint.rulekit import executed_writes
from gradlint.source import Write
from gradlint.traces import ChildRegistration, ParameterRegistration, ParametersExchanged, SiteId


class LostTie(Rule):
    """A tied weight that comes apart before training.

    ## What it does
    Finds two names of one parameter, such as input and output embedding, that have a tensor each when training starts:
    `to_empty()` from the meta device, a layer that was replaced or copied, a load with `assign=True`.

    ## Why it is bad
    The two tensors start apart or drift apart. The model has more parameters than it was designed with, and a
    checkpoint that stores the weight once no longer describes it.

    ## Example
    ```python
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.output = nn.Linear(4, 10, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens):
            return self.output(self.embedding(tokens))

    def build():
        model = Tagger()
        model.embedding = nn.Embedding(10, 4)
        return {"model": model, "inputs": (torch.randint(0, 10, (2, 5)),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(10, 4)
            self.output = nn.Linear(4, 10, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens):
            return self.output(self.embedding(tokens))

    def build():
        model = Tagger()
        model.embedding = nn.Embedding(10, 4)
        model.output.weight = model.embedding.weight
        return {"model": model, "inputs": (torch.randint(0, 10, (2, 5)),)}
    ```

    ## Known limits
    Not reported if one of the tensors does not train, or if their shapes differ. Not reported either if user code gives
    one name a copy of the weight (`nn.Parameter(weight.clone())`). The same holds if it sets `tie_word_embeddings` to
    False, or parts the names in a constructor. The severity is error where no code asks for two tensors: a conversion,
    a load.

    ## References
    https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.to_empty
    """

    code = "GL111"
    name = "lost-tie"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    MESSAGE = "{parameters} were one tied tensor and now train apart: {reason}."
    REASON_CONVERTED = "{how}() gives each name a tensor of its own"
    REASON_LOADED = "load_state_dict() assigns each name a tensor of its own"
    REASON_REPLACED = "the new {what} has a tensor of its own"
    REASON_UNSEEN = "one of the names got another tensor after they were tied"
    RELATED = "tied here"
    FIX = "Tie the weights again afterwards (model.tie_weights(), or {second} = {first})."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        if any(map(_is_false, executed_writes(trace, "tie_word_embeddings"))):
            return
        found = [tie for tie in parted_ties(trace) if self._is_lost(context, tie)]
        for (site, reason, severity), ties in context.by_place(found, lambda tie: self._cause(context, tie)):
            parameters = [parameter for tie in ties for parameter in tie.parameters]
            distinct = list({p.index: p for p in parameters}.values())
            first, second = ties[0].parameters
            yield context.finding(
                self,
                context.fill(self.MESSAGE, distinct, reason=reason),
                at=site,
                parameters=distinct,
                related=[context.related(self.RELATED, ties[0].tied_at), *context.callers(site, limit=1)],
                fix=Fix(self.FIX.format(first=f"model.{first.fqn}", second=f"model.{second.fqn}")),
                severity=severity,
            )

    def _cause(self, context: Context, tie: PartedTie) -> tuple[SiteId, str, Severity]:
        """Return what to blame for a lost tie: site, reason and severity."""
        event = tie.parted_by
        if event is None:
            return tie.tied_at.site, self.REASON_UNSEEN, Severity.WARNING
        if isinstance(event, ParametersExchanged):
            return event.site, self.REASON_CONVERTED.format(how=event.how), Severity.ERROR
        if tie.loaded:
            return event.site, self.REASON_LOADED, Severity.ERROR
        return event.site, self.REASON_REPLACED.format(what=event.name), Severity.WARNING

    def _is_lost(self, context: Context, tie: PartedTie) -> bool:
        """Return True if both tensors train, and no code parted them on purpose."""
        if any(p.index not in context.flow.reached for p in tie.parameters):
            return False
        new, old = tie.parameters if tie.new is tie.parameters[0] else tie.parameters[::-1]
        if new.shape != old.shape:
            return False
        event = tie.parted_by
        if event is None or isinstance(event, ParametersExchanged):
            return True
        shares_memory = old.index in new.shares_memory_with
        if tie.loaded:  # a state that was saved from tied weights has one tensor for both names
            return shares_memory
        innermost = context.trace.sites.innermost(event.site)
        if innermost is None or innermost.code.co_name == "__init__":
            return False
        is_copy = old.index in new.copied_from
        if isinstance(event, ParameterRegistration):
            return not is_copy
        assert isinstance(event, ChildRegistration)
        return not is_copy or bool(context.trace.modules[event.child].children)


def _is_false(write: Write) -> bool:
    return isinstance(write.value, ast.Constant) and write.value.value is False
