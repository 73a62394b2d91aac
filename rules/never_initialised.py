"""GL114 never-initialised."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Finding, Fix, Parameter, Rule, Severity
from gradlint.flow import never_written
from gradlint.rulekit import allocated_by_constructor
from gradlint.traces import NO_SITE, ParametersExchanged, SiteId


class NeverInitialised(Rule):
    """Parameters whose memory nothing writes before training.

    ## What it does
    Finds parameters that `to_empty()`, `torch.empty()` or `torch.Tensor(n, m)` allocates, and that no initialiser and
    no load writes before the loss depends on them. Finds models too whose parameters are all set to zero after
    `to_empty()`.

    ## Why it is bad
    Allocated memory holds what was there before: zeros on a fresh page, else NaN, infinity or parts of other tensors.
    Training starts from chance values, and differs from run to run.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model.to_empty(device="cpu")
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    def build():
        with torch.device("meta"):
            model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        model.to_empty(device="cpu")
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
        return {"model": model, "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Memory that left torch (`numpy()`) is taken for written, and so is all memory while a process group is at work.
    Buffers are not judged.

    ## References
    https://docs.pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.to_empty
    """

    code = "GL114"
    name = "never-initialised"
    severity = Severity.ERROR
    needs = frozenset({"forward"})

    MESSAGE = "{parameters} {are} never initialised: nothing writes to {them} before training."
    MESSAGE_EMPTIED = "to_empty() allocates {parameters}, and nothing initialises {them} before training."
    MESSAGE_ZERO = "to_empty() allocates {parameters}, and only zeros are written to {them}: no layer can train."
    RELATED_ZERO = "set to zero here"
    FIX = "Initialise the parameter (nn.init.normal_), or create it by torch.zeros or torch.randn."
    FIX_EMPTIED = "Call reset_parameters() of each layer after to_empty(), or load a state that has all parameters."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        used = context.flow.reached | context.flow.depends
        found: list[tuple[Parameter, ParametersExchanged | None]] = [
            entry for entry in never_written(trace) if entry[0].index in used
        ]
        used -= {parameter.index for parameter, _ in found}
        for parameter in trace.parameters:
            if parameter.index in used and allocated_by_constructor(trace, parameter):
                found.append((parameter, None))
        for (site, is_emptied), members in context.by_place(found, _place):
            parameters = [parameter for parameter, _ in members]
            writes = (e for p in parameters for e in p.writes if e.op <= trace.forward_start)
            zeros = next(writes, None)
            message = self.MESSAGE if not is_emptied else self.MESSAGE_EMPTIED if zeros is None else self.MESSAGE_ZERO
            yield context.finding(
                self,
                context.fill(message, parameters),
                at=site,
                parameters=parameters,
                related=[context.related(self.RELATED_ZERO, zeros), *context.callers(site, limit=1)],
                fix=Fix(self.FIX_EMPTIED if is_emptied else self.FIX),
            )


def _place(entry: tuple[Parameter, ParametersExchanged | None]) -> tuple[SiteId, bool]:
    """Return the site that allocated a parameter, and True if ``to_empty`` did."""
    parameter, exchanged = entry
    if exchanged is not None:
        return exchanged.site, True
    return parameter.created_by.site if parameter.created_by is not None else NO_SITE, False
