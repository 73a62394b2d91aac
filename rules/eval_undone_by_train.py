"""GL204 eval-undone-by-train."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gradlint import Context, Finding, Fix, Module, ModuleCall, Rule, Severity, Trace
from gradlint.rulekit import patterns_of
from gradlint.traces import ModeSwitch, ModuleIndex


class EvalUndoneByTrain(Rule):
    """An `eval()` that a later `train()` undoes.

    ## What it does
    Finds parts of the model that user code put in eval mode. They ran in train mode nevertheless, after a later
    `train()` of the model, in the build or in a step.

    ## Why it is bad
    `train()` applies to all submodules. Norm layers update their statistics again, and dropout is active again, from
    the first epoch on.

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
    Not reported if the part ran in eval mode in between (an evaluation), or if no layer of it depends on the mode. Also
    not reported if `train()` was called on the part itself, or code set `training` by hand before the `train()`. Frozen
    norms are left to frozen-norm-updates-stats.

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.Module.html#torch.nn.Module.train
    """

    code = "GL204"
    name = "eval-undone-by-train"
    severity = Severity.WARNING
    needs = frozenset({"forward"})

    MESSAGE = "train() on the whole model puts {names} back in train mode."
    RELATED = "train() is called here"
    FIX = "Override train() so that it puts these modules in eval mode again, or call their eval() after each train()."

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        switches: defaultdict[ModuleIndex, list[ModeSwitch]] = defaultdict(list)
        for event in trace.events_of(ModeSwitch):
            switches[event.module].append(event)
        inside: defaultdict[ModuleIndex, list[ModuleCall]] = defaultdict(list)
        for call in trace.calls:
            for module in trace.around(call.module):
                inside[module.number].append(call)
        undone_evals: list[tuple[ModeSwitch, ModeSwitch, Module]] = []
        for event in trace.events_of(ModeSwitch):
            if event.training or event.op > trace.forward_start or not context.by_user(event.site):
                continue
            if trace.training is not None and event.number >= trace.training.first_event:
                continue  # a phase of the steps
            part = trace.modules[event.module]
            undone = _undone(trace, event, switches, inside[part.number])
            if undone is None:
                continue
            # a part that the build leaves in eval mode is not evaluated in between: gradlint runs that forward
            end = undone.op if part.training else trace.forward_start
            if not any(event.op <= call.start < end for call in inside[part.number]):
                undone_evals.append((event, undone, part))
        for where, group in context.by_place(undone_evals, lambda item: trace.location(item[0].site)):
            event, undone, _ = group[0]
            parts = [part for _, _, part in group]
            yield context.finding(
                self,
                self.MESSAGE.format(names=patterns_of([part.fqn for part in parts])),
                at=where,
                parameters=[p for part in parts for p in trace.below(part)],
                related=[context.related(self.RELATED, undone), *context.callers(event.site)],
                fix=Fix(self.FIX),
            )


def _undone(
    trace: Trace, event: ModeSwitch, switches: Mapping[ModuleIndex, Sequence[ModeSwitch]], calls: Iterable[ModuleCall]
) -> ModeSwitch | None:
    """Return the train() above a part that put a layer of it in train mode, if nothing else did."""
    above = {module.number for module in trace.around(trace.modules[event.module].parent)}
    for call in calls:
        if call.training and _is_sensitive(trace, trace.modules[call.module]):
            over = (e for module in trace.around(call.module) for e in switches.get(module.number, ()))
            later = sorted((e for e in over if e.number > event.number and e.op <= call.start), key=lambda e: -e.number)
            last = list(itertools.takewhile(lambda e: e.training, later))
            change = next((e for e in reversed(last) if call.module in e.changed), None)
            if change is not None and all(e.module in above for e in last):
                return change
    return None


def _is_sensitive(trace: Trace, module: Module) -> bool:
    """Return True if a module depends on the mode and is no frozen norm."""
    if "running_mean" in module.running_stats:
        own = trace.own(module)
        return not own or any(p.requires_grad for p in own)
    return module.is_active_dropout
