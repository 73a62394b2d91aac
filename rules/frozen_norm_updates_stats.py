"""GL201 frozen-norm-updates-stats."""

from __future__ import annotations

from collections.abc import Iterator

from gradlint import Context, Event, Finding, Fix, Location, Module, Parameter, Rule, Severity, inflect


class FrozenNormUpdatesStats(Rule):
    """A frozen norm layer whose running statistics still move.

    ## What it does
    Finds norm layers with frozen affine parameters (or none, inside a wholly frozen parent) that ran in train mode and
    whose `running_mean` or `running_var` changed in the forward.

    ## Why it is bad
    `requires_grad` stops the optimizer, not the statistics: they are buffers and follow every batch in train mode. The
    "frozen" network drifts away from what was trained, and normalises by the batch instead of by what it learned.

    ## Example
    ```python
    import torch
    from torch import nn

    def build():
        backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8))
        for p in backbone.parameters():
            p.requires_grad = False
        head = nn.Linear(8, 2)
        model = nn.Sequential(backbone, head)
        return {"model": model, "inputs": (torch.randn(8, 4),),
                "optimizer": torch.optim.SGD(head.parameters(), lr=0.1)}
    ```

    ## Use instead
    ```python
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8)).requires_grad_(False)
            self.head = nn.Linear(8, 2)

        def train(self, mode=True):
            super().train(mode)
            self.backbone.eval()
            return self

        def forward(self, x):
            return self.head(self.backbone(x))

    def build():
        model = Net().train()
        return {"model": model, "inputs": (torch.randn(8, 4),),
                "optimizer": torch.optim.SGD(model.head.parameters(), lr=0.1)}
    ```

    ## Known limits
    Silent on networks that move by other means: held by an optimizer that this loss does not train (a GAN's other
    half), written to by hand, or copied from a network that trains (momentum encoders, mean teachers).

    ## References
    https://pytorch.org/docs/stable/generated/torch.nn.BatchNorm2d.html
    """

    code = "GL201"
    name = "frozen-norm-updates-stats"
    severity = Severity.ERROR
    needs = frozenset({"forward"})

    def check(self, context: Context) -> Iterator[Finding]:
        trace = context.trace
        groups: dict[tuple[Location | None, bool], list[tuple[Module, list[Parameter], Event | None]]] = {}
        for module in trace.modules:
            if not _moved(context, module) and not _by_batch(module):
                continue
            own = [trace.parameters[i] for i in module.parameters]
            judged = own or _subtree(context, module)
            if not judged or not all(p.frozen_throughout for p in judged) or _moves_otherwise(context, judged):
                continue
            freeze = next((e for p in judged if (e := p.frozen_by) is not None), None)
            where = trace.location(freeze.site if freeze else module.registered_at)
            groups.setdefault((where, _by_batch(module)), []).append((module, judged, freeze))
        for (where, by_batch), members in groups.items():
            modules = [m for m, _, _ in members]
            parameters = [p for _, judged, _ in members for p in judged]
            freeze = members[0][2]
            listed = ", ".join(m.fqn for m in modules[:4]) + (
                f" and {len(modules) - 4} more" if len(modules) > 4 else ""
            )
            layers = "norm layer" if len(modules) == 1 else "norm layers"
            message = (
                f"{len(modules)} frozen {layers} {inflect(modules, 'still update')} running statistics in train mode: "
                f"{listed}. requires_grad=False does not stop buffers."
            )
            if by_batch:
                message = (
                    f"{len(modules)} frozen {layers} of momentum 0 in train mode: {listed}. The running statistics "
                    "stay, and the layer normalises by the batch all the same."
                )
            yield context.finding(
                self,
                message,
                at=where,
                severity=Severity.INFO if by_batch else None,
                parameters=parameters,
                related=[
                    *(context.callers(freeze.site) if freeze else ()),
                    *(context.related(f"{m.fqn} is made here", m.registered_at) for m in modules[:1]),
                ],
                fix=Fix(
                    "Put the frozen layers in eval mode, and keep them there by overriding train(); or use a norm "
                    "without moving statistics (torchvision.ops.FrozenBatchNorm2d)."
                ),
            )


def _moved(context: Context, module: Module) -> bool:
    return f"{module.fqn}.running_mean".removeprefix(".") in context.trace.buffers_moved


def _by_batch(module: Module) -> bool:
    """Whether a norm layer ran in train mode with a momentum of 0: it keeps its statistics and does not use them."""
    ran_in_train_mode = module.calls > 0 and module.training_after
    return ran_in_train_mode and module.momentum == 0 and "running_mean" in module.running_stats


def _subtree(context: Context, module: Module) -> list[Parameter]:
    """The parameters below the nearest ancestor that has any: what a norm without parameters is judged by."""
    trace = context.trace
    while module.parent >= 0:
        module = trace.modules[module.parent]
        found = trace.below(module)
        if found:
            return found
    return []


def _moves_otherwise(context: Context, parameters: list[Parameter]) -> bool:
    trace = context.trace
    active = {n for p in trace.parameters if p.index in context.flow.reached for n, _ in p.groups}
    if any(p.written for p in parameters):
        return True
    if any(trace.parameters[i].requires_grad for p in parameters for i in p.twin_of):
        return True
    return any(n not in active for p in parameters for n, _ in p.groups) and len(trace.optimizers) > 1
