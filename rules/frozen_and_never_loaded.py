"""GL208 frozen-and-never-loaded."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity, Trace
from gradlint.flow import is_read_from_file, is_whole
from gradlint.rulekit import plural
from gradlint.traces import (
    NO_SITE,
    RANDOM_TENSORS,
    RANDOM_WRITES,
    VALUE_FREE,
    ParameterWrite,
    SiteId,
    ValueId,
)


class FrozenAndNeverLoaded(Rule):
    """A new layer that is frozen at its random values, together with loaded ones.

    ## What it does
    Finds parameters that a line freezes together with parameters from a checkpoint, and that have the random values of
    their initialisation: no load wrote them. The loss has to depend on them, and no later line unfreezes them.

    ## Why it is bad
    The line is meant for what is pretrained, and takes a new head or projection with it. The layer stays a random one,
    and the rest of the network has to adapt to it.

    ## Example
    ```python
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
            self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x) * self.scale)

    def build():
        checkpoint = {f"body.{name}": value for name, value in Classifier().body.state_dict().items()}
        model = Classifier()
        model.load_state_dict(checkpoint, strict=False)
        for name, p in model.named_parameters():
            p.requires_grad = name == "scale"
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8))
            self.scale, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.body(x) * self.scale)

    def build():
        checkpoint = {f"body.{name}": value for name, value in Classifier().body.state_dict().items()}
        model = Classifier()
        model.load_state_dict(checkpoint, strict=False)
        for name, p in model.named_parameters():
            p.requires_grad = not name.startswith("body.")
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Loads are those of `load_state_dict`, of a `from_pretrained` that the recording includes, and of a loop that copies
    the tensors of `torch.load` or safetensors. Not reported if a line freezes the new layers alone, or more new tensors
    than loaded ones.

    ## References
    https://huggingface.co/docs/peft/developer_guides/troubleshooting (randomly initialized layers)
    """

    code = "GL208"
    name = "frozen-and-never-loaded"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    MESSAGE = "this line freezes {parameters} at random initial values, beside {others}: no load has written {them}."
    RELATED_CREATED = "created here"
    RELATED_LOADED = "the others are loaded here"
    FIX = "Leave new layers out of the freeze. With peft, name them in modules_to_save."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        frozen = [p for p in trace.parameters if p.frozen_throughout and p.frozen_by is not None]
        origins = _Origins(trace)
        for _, members in context.by_place(frozen, _freeze_of):
            loaded = {p.index: site for p in members if (site := origins.loaded_at(p)) != NO_SITE}
            used = [p for p in members if p.index not in loaded and p.index in context.flow.depends]
            new = [p for p in used if origins.is_random(p)]
            if not new or len(new) > len(loaded):
                continue
            created, freeze = new[0].created_by, new[0].frozen_by
            assert freeze is not None
            yield context.finding(
                self,
                context.fill(self.MESSAGE, new, others=plural(len(loaded), "loaded tensor")),
                at=freeze.site,
                parameters=new,
                related=[
                    *context.callers(freeze.site),
                    context.related(self.RELATED_CREATED, created),
                    context.related(self.RELATED_LOADED, next(iter(loaded.values()))),
                ],
                fix=Fix(self.FIX),
            )


def _freeze_of(parameter: Parameter) -> tuple[SiteId, int]:
    """Return the identity of a freeze: its call chain, and the module that it is called on."""
    freeze = parameter.frozen_by
    assert freeze is not None
    return freeze.site, freeze.through


class _Origins:
    """The origins of the values that parameters have when the forward starts."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def loaded_at(self, parameter: Parameter) -> SiteId:
        """Return the site of the load that gave a parameter its values; NO_SITE if none did."""
        if parameter.copied_from:  # a target network takes its state from the model itself
            return NO_SITE
        writes = self._writes(parameter)
        for write in writes:
            if write.loading >= 0 or any(is_read_from_file(self._trace, v) for v in write.sources):
                return write.site
        for registration in parameter.registrations:
            if registration.number in self._trace.loading:
                return self._trace.loading[registration.number].site
        if writes or self._is_made_at_random(parameter):
            return NO_SITE
        made_at = next((r.site for r in parameter.registrations), NO_SITE)
        frames = self._trace.sites.chain(made_at)
        return made_at if any(f.function.endswith("from_pretrained") for f in frames) else NO_SITE

    def is_random(self, parameter: Parameter) -> bool:
        """Return True if a parameter has the random values that it was initialised with in this run."""
        if parameter.copied_from or parameter.written:
            return False
        is_random = self._is_made_at_random(parameter)
        for write in self._writes(parameter):
            if write.op_name in RANDOM_WRITES:
                is_random = True
            elif write.op_name in VALUE_FREE | {"fill_"}:
                if is_whole(self._trace, write, parameter.shape):
                    is_random = False
            elif "out" in (self._trace.ops[write.op].kwargs or ()):
                is_random = write.op_name in RANDOM_TENSORS  # torch.eye(n, out=p), as nn.init.eye_ calls it
            elif write.sources:
                if not self._all_random(write.sources):
                    return False
                is_random = True
        return is_random

    def _writes(self, parameter: Parameter) -> list[ParameterWrite]:
        """Return the writes to a parameter before the forward, without conversions."""
        return [e for e in parameter.writes if e.op < self._trace.forward_start and not e.converts]

    def _is_made_at_random(self, parameter: Parameter) -> bool:
        """Return True if a parameter was made of a random tensor: ``nn.Parameter(torch.randn(8))``."""
        return self._all_random(self._trace.values_of[parameter.index][:1])

    def _all_random(self, values: Iterable[ValueId]) -> bool:
        """Return True if some values are computed from nothing but random numbers."""
        pending, seen = set(values), set[ValueId]()
        while pending:
            value = pending.pop()
            seen.add(value)
            op = self._trace.made_by(value)
            if op is None:
                return False
            if op.name in RANDOM_TENSORS | RANDOM_WRITES:
                continue
            if not op.inputs or op.name in VALUE_FREE:
                return False
            pending |= set(op.inputs) - seen
        return bool(seen)
