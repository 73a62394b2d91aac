"""GL211 dropout-active-in-eval."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradlint import Context, Finding, Fix, ModuleCall, Op, Rule, Severity, SourceContext, Trace
from gradlint.source import (
    DropoutFault,
    HardWiredDropout,
    asks_for_mode,
    call_and_file_at,
    class_of,
    hard_wired_dropout,
    hard_wired_dropouts,
)
from gradlint.traces import ATTENTION, DROPOUTS, CallIndex, ChildRegistration, ModeSwitch, SiteId


@dataclass(frozen=True)
class _Active:
    """A dropout that is active in eval mode."""

    site: SiteId
    name: str
    fault: DropoutFault | None
    """The reason by its source; None if the recording shows it in a module in eval mode."""
    deliberate: bool
    module: str
    """Name of the class that it runs in."""


class DropoutActiveInEval(Rule):
    """Dropout that is active in eval mode too.

    ## What it does
    Finds dropouts in a module that `eval()` does not switch off:

    - `F.dropout(x)` without `training`, which is True by default
    - `scaled_dot_product_attention` with a constant `dropout_p`
    - a layer that is created where it is called, as `nn.Dropout(0.5)(x)`, or that is kept in a plain list

    The severity is info if the dropout seems meant: by `training=True`, or by a name as `MCDropout`.

    ## Why it is bad
    Evaluation is random: the metrics are worse than the model, early stopping and the choice of a checkpoint follow the
    noise, and two predictions for one input differ.

    ## Example
    ```python
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(F.dropout(self.body(x).relu(), p=0.5))

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Use instead
    ```python
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(F.dropout(self.body(x).relu(), p=0.5, training=self.training))

    def build():
        return {"model": Net(), "inputs": (torch.randn(3, 4),)}
    ```

    ## Known limits
    Not reported under a condition that names the mode, and in methods that neither `forward` calls nor user code in
    every mode. Not reported for probabilities that code changes or computes, and for dropout written out by hand.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.functional.dropout.html
    """

    code = "GL211"
    name = "dropout-active-in-eval"
    severity = Severity.WARNING
    needs = frozenset({"forward"})
    names_parameters = False
    source_prefilter = ("dropout|Dropout",)
    suppressible_on = r"[Dd]ropout|scaled_dot_product_attention|\("

    MESSAGE_NO_ARGUMENT = "{call} drops elements in eval mode too: its argument training is True by default."
    MESSAGE_CONSTANT = "{call} drops elements in eval mode too: training is always True."
    MESSAGE_ATTENTION = "{call} drops weights in eval mode too: dropout_p applies in every mode."
    MESSAGE_NEW_LAYER = "this dropout is in no module that eval() reaches: it drops elements in eval mode too."
    MESSAGE_IN_EVAL = "{call} drops elements although the {module} around it is in eval mode."
    FIX = "Pass training=self.training."
    FIX_ATTENTION = "Pass dropout_p=p if self.training else 0.0."
    FIX_NEW_LAYER = "Create the layer in __init__ and assign it to an attribute."

    def check_source(self, context: SourceContext) -> Iterator[Finding]:
        for dropout in hard_wired_dropouts(context.module):
            name = context.module.text(dropout.call.func).rsplit(".", 1)[-1]
            yield context.finding(
                self,
                self._message(dropout.fault, name),
                dropout.call,
                severity=Severity.INFO if dropout.deliberate else None,
                fix=Fix(self._fix(dropout.fault)),
            )

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        found = [*_active_calls(context), *_active_layers(context)]
        for (_, fault, deliberate), members in context.by_place(
            found, lambda dropout: (trace.location(dropout.site), dropout.fault, dropout.deliberate)
        ):
            first = members[0]
            yield context.finding(
                self,
                self._message(fault, first.name, first.module),
                at=first.site,
                fix=Fix(self._fix(fault)),
                demoted=deliberate,
            )

    def _message(self, fault: DropoutFault | None, name: str, module: str = "") -> str:
        template = {
            DropoutFault.NO_ARGUMENT: self.MESSAGE_NO_ARGUMENT,
            DropoutFault.CONSTANT: self.MESSAGE_CONSTANT,
            DropoutFault.ATTENTION: self.MESSAGE_ATTENTION,
            DropoutFault.NEW_LAYER: self.MESSAGE_NEW_LAYER,
            None: self.MESSAGE_IN_EVAL,
        }[fault]
        return template.format(call=f"{name}()", module=module)

    def _fix(self, fault: DropoutFault | None) -> str:
        if fault is DropoutFault.ATTENTION:
            return self.FIX_ATTENTION
        return self.FIX_NEW_LAYER if fault is DropoutFault.NEW_LAYER else self.FIX


def _active_calls(context: Context) -> Iterator[_Active]:
    """Yield the calls in user code that drop elements in a module in eval mode, or always."""
    trace = context.trace
    for op in trace.ops[trace.forward_start :]:
        module = trace.module_of(op) if _drops(op) else None
        if module is None or not context.by_user(op.site):
            continue
        fixed = _hard_wired(trace, op)
        in_eval = not trace.calls[op.call].training
        if fixed is not None and not _is_conditional(trace, op.site, op.call):
            yield _Active(op.site, op.name, fixed.fault, fixed.deliberate, module.type.name)
        elif in_eval:
            yield _Active(op.site, op.name, None, True, module.type.name)


def _active_layers(context: Context) -> Iterator[_Active]:
    """Yield the dropout layers that ran inside the model and that no module of it contains."""
    trace = context.trace
    handled = {e.child for e in trace.events_of(ChildRegistration)} | {e.module for e in trace.events_of(ModeSwitch)}
    for call in trace.calls:
        module = trace.modules[call.module]
        is_loose = module.is_active_dropout and not module.in_tree and module.number not in handled
        if not is_loose or not call.training or call.parent < 0 or not context.by_user(call.site):
            continue
        owner = trace.modules[trace.calls[call.parent].module]
        is_switched = _switches_itself(trace, call) or _is_conditional(trace, call.site, call.parent)
        if owner.in_tree and not is_switched:
            yield _Active(call.site, module.type.name, DropoutFault.NEW_LAYER, False, owner.type.name)


def _drops(op: Op) -> bool:
    """Return True if an op drops elements of its input."""
    if op.name in ATTENTION:
        return bool(op.argument(4, "dropout_p", 0.0))
    training = op.argument(2, "training", op.argument(2, "train"))
    return op.name in DROPOUTS and bool(op.argument(1, "p")) and bool(training)


def _hard_wired(trace: Trace, op: Op) -> HardWiredDropout | None:
    """Return how the source of a call fixes its dropout; None if it does not."""
    frame = trace.sites.innermost(op.site)
    assert frame is not None  # it is user code
    match call_and_file_at(frame.path, frame.location, (op.name,)):
        case module, call:
            return hard_wired_dropout(module, call)
    return None


def _is_conditional(trace: Trace, site: SiteId, inside: CallIndex) -> bool:
    """Return True if a call on the way from the outermost module to a site depends on the mode."""
    *_, outermost = trace.calls_around(inside)
    end = trace.calls[outermost].site
    for frame, above in trace.sites.links(site):
        match call_and_file_at(frame.path, frame.location):
            case module, call if asks_for_mode(module, call):
                return True
        if above == end:
            break
    return False


def _switches_itself(trace: Trace, call: ModuleCall) -> bool:
    """Return True if the class that calls a layer overrides ``train``."""
    frame = trace.frame(call.site)
    assert frame is not None  # it is user code
    cls = class_of(frame.code)
    return cls is not None and "train" in {getattr(node, "name", "") for node in cls.body}
